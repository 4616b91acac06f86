/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_waiter.h - what a livepatch of klp_waiter calls of it
 */
#ifndef KLP_WAITER_H
#define KLP_WAITER_H

/* Sleeps, and returns the answer that it is given. */
int klp_waiter_wait(unsigned int ms, int answer);

#endif
