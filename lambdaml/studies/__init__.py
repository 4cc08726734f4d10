"""Studies: experiments at scale, each with a table and a page of its own."""
