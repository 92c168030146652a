"""Evaluate a molecule with every model, at each of the addresses that are given."""

import sys

import numpy as np

from twinforce import Client, System

for url in sys.argv[1:]:
    with Client(url, timeout=120) as client:
        for model in client.models():
            element = min(model.elements)
            system = System([element, element], [[0.0, 0.0, 0.0], [0.9, 0.3, 0.2]])
            outputs = [each for each in model.outputs if each.endswith(("energy", "forces"))]
            prediction = client.predict(system, model=model.name, outputs=outputs)
            for output in outputs:
                values = np.asarray(getattr(prediction, output))
                if not np.isfinite(values).all():
                    sys.exit(f"{url}: expected finite {output} from {model.name}, got {values}")
                if output.endswith("forces") and abs(values.sum(axis=0)).max() > 1e-3:
                    sys.exit(f"{url}: expected {output} that add up to zero, got {values}")
            sys.stdout.write(f"{url}: {model.name} on {model.device} gives {', '.join(outputs)}\n")
