"""What comes in: requests over HTTP (`http`) and over the bus (`requests`), to the same desk."""
