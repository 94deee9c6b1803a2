"""One file for each project we measure beside, and one for ourselves: how it is installed, fed, and asked."""
