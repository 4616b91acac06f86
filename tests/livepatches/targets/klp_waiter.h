/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_waiter.h - what a livepatch of klp_waiter calls of it
 */
#ifndef KLP_WAITER_H
#define KLP_WAITER_H

/* Sleeps, and returns what it is given. */
int klp_waiter_wait(int answer);

#endif
