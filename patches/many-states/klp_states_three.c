// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_states_three.c - a livepatch with many states that lies upon others
 *
 * Purpose: be klp_states_one.ko by another name, because a module can be loaded
 * only once.
 */

#include "klp_states_one.c"
