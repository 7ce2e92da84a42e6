"""How well anomalies are found, on labelled data from public sources, beside peers in the same run."""
