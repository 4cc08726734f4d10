"""Studies: experiments at scale, each of which has its own table and page."""
