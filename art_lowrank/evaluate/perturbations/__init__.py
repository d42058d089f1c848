"""Singular values of what attacks have done to images: `art-lowrank spectra`."""
