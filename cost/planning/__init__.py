"""Plans: candidates, what each would take, the choice, and why."""
