"""Charts as inline SVG, pictures as small data URIs, and self-contained HTML pages. Knows no model and no data set."""
