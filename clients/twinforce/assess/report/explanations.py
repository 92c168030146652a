"""What each piece of an assessment shows, for people who read it for the first time."""

from collections.abc import Mapping

TITLES: Mapping[str, str] = {
    "lambda": "How far the direct forces are from a gradient",
    "loops": "Work around closed paths",
    "cost": "What a step costs",
    "optimise": "Geometry optimisation",
    "resonance": "Which outer steps heat",
    "nve": "Energy without a thermostat",
    "nvt": "Temperature, motion and order with a thermostat",
}

EXPLANATIONS: Mapping[str, str] = {
    "lambda": (
        "λ is the antisymmetric part of the Jacobian of the forces over the whole of it: 0 for a "
        "gradient, 1 for forces without any conservative part. The service finds it by "
        "differentiating, the client by displacing every coordinate, so that two independent "
        "routes must agree; what the second gives for conservative forces is its noise. Resolved "
        "by pairs, it shows at which distances the forces between atoms stop being reciprocal."
    ),
    "loops": (
        "Forces that are a gradient do no work around a closed path. Each path here is a smooth "
        "loop of a random displacement of all atoms. The error of the sum is what halving the "
        "number of points changes; work below it means nothing."
    ),
    "cost": (
        "Steps are timed end to end, over the wire, in rounds in which every way takes its turn; "
        "ratios are taken within rounds. With F for what a conservative step costs in direct "
        "ones, a step of multiple time stepping should cost 1 + (F - 1)/M, since both forces come "
        "from one pass."
    ),
    "optimise": (
        "The same perturbed starts go down on direct forces, on conservative forces, and on "
        "direct forces first and conservative ones from where those stall. An optimiser believes "
        "that it has converged when the forces it follows vanish; what counts is whether the "
        "conservative force does. Bars of success show the standard error by Wilson."
    ),
    "resonance": (
        "Correcting every M steps shakes the system with the difference of both forces at the "
        "frequency 1/(M·dt) and its multiples. What it then absorbs follows, to first order, from "
        "the spectrum of the power of that difference along one run that is corrected at every "
        "step. The drift predicted for an M is large where its frequency meets an overtone of a "
        "stiff bond, so that a longer outer step can be the better one."
    ),
    "nve": (
        "Without a thermostat the total energy is constant if the forces are a gradient and the "
        "steps short enough. The drift is a line fitted to averages over ten blocks of the run, "
        "with the error that their scatter says; the gray band is what counts as none."
    ),
    "nvt": (
        "A thermostat hides that direct forces heat: the mean temperature is right, and one "
        "species is hot while another is cold. Errors are from block averages that know of the "
        "correlation; those with a question mark are from runs too short for that. Velocity "
        "Verlet itself makes light, fast atoms a little colder; that is expected, listed, and "
        "taken away in the figure. Strong friction keeps temperatures as well, but slows "
        "diffusion; spectra and radial distributions show what else changes."
    ),
}
