"""Runs beside each other: what differs in them, and whether what they came to differs surely.

sides.py        what is known of a run, from MLflow or from a report's folder
differences.py  params, lineage, metrics and gains
examples.py     classes, images and queries that one gets right and the other wrong
groups.py       runs grouped by params, paired by seed
charts.py       gains, curves, and dots by group, as inline SVG
page.py text.py what is shown, as a page and in the terminal
"""
