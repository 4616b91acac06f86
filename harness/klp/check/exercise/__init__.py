# SPDX-License-Identifier: Apache-2.0
"""What the scenario `exercise` is made of: workloads, what is known of them, what they printed, faults."""
