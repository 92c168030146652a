"""Explanations of the pieces of an assessment for first-time readers."""

from collections.abc import Mapping

TITLES: Mapping[str, str] = {
    "lambda": "How far the direct forces are from a gradient",
    "loops": "Work around closed paths",
    "cost": "Cost of a step",
    "optimise": "Geometry optimization",
    "resonance": "Heating by outer steps",
    "nve": "Energy without a thermostat",
    "nvt": "Temperature, motion and structure with a thermostat",
}

EXPLANATIONS: Mapping[str, str] = {
    "lambda": (
        "λ is the norm of the antisymmetric part of the Jacobian of the forces, divided by the "
        "norm of the Jacobian: 0 for a gradient, 1 for forces without any conservative part. The "
        "service computes it by automatic differentiation, and the client by displacing every "
        "coordinate; the two independent routes must agree. The value that the client finds for "
        "conservative forces is the noise of its method. Resolved by pairs of atoms, λ shows the "
        "distances at which forces between atoms stop being reciprocal."
    ),
    "loops": (
        "Forces that are a gradient do no work around a closed path. Each path here is a smooth "
        "loop along a random displacement of all atoms. The quadrature error is the change in the "
        "work when the number of points is halved; work below it is not significant."
    ),
    "cost": (
        "Steps are timed end to end, over the wire, in rounds that include every way to drive a "
        "simulation; ratios are taken within rounds. If a conservative evaluation costs F direct "
        "evaluations, a step of multiple time stepping should cost 1 + (F - 1)/M of them, since "
        "both kinds of forces come from one pass through the model."
    ),
    "optimise": (
        "The same perturbed starts are optimized on direct forces, on conservative forces, and on "
        "direct forces until those stall and conservative forces from there. An optimizer reports "
        "convergence when the forces that it follows vanish; a minimum is reached only if the "
        "conservative force vanishes. Error bars of the success rate are standard errors by "
        "Wilson's method."
    ),
    "resonance": (
        "Correcting every M steps modulates the difference between the two kinds of forces at the "
        "frequency 1/(M·dt) and its multiples. To first order, the energy that the system absorbs "
        "follows from the power spectrum of that difference in a single simulation that is "
        "corrected at every step. The predicted drift is large if the frequency of M meets an "
        "overtone of a stiff bond, so a longer outer step can be better than a shorter one."
    ),
    "nve": (
        "Without a thermostat, the total energy is conserved if the forces are a gradient and the "
        "time step is short enough. The drift is the slope of a line fitted to the averages of "
        "ten blocks of the simulation, and its error follows from their scatter about the line. "
        "The gray band marks drifts that count as none."
    ),
    "nvt": (
        "A thermostat hides the heating by direct forces: the mean temperature is right, but some "
        "species are hot and others cold. Errors come from block averages that account for "
        "correlation; a question mark means that the simulation is too short for a reliable "
        "error. Velocity Verlet by itself makes light, fast atoms slightly colder; the tables "
        "list this expected shift, and the figure subtracts it. Strong friction also keeps the "
        "temperatures right but slows diffusion; spectra and radial distribution functions show "
        "what else changes. The last table compares each simulation with that of conservative "
        "forces: of functions g(r) that are equal, about 5% of the bins differ by more than two "
        "standard errors, and equal spectra overlap more than those of the two halves of the "
        "simulation with conservative forces, given in parentheses."
    ),
}
