// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_state_next.c - the livepatch with a system state that follows klp_state
 *
 * Purpose: be klp_state.ko by another name, because a module can be loaded
 * only once.
 */

#include "klp_state.c"
