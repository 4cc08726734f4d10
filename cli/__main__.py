"""`python -m lambdaml.cli` is the `lambdaml` command."""

from lambdaml.cli import main

if __name__ == "__main__":
    main()
