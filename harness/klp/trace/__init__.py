# SPDX-License-Identifier: Apache-2.0
"""Typed events; shipping, arming and draining the probes; the run's event store. Judges nothing."""
