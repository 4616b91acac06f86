/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * klp_holder.h - what klp_holder.ko and its livepatch agree on
 */

#ifndef KLP_HOLDER_H
#define KLP_HOLDER_H

#include <linux/atomic.h>
#include <linux/sched.h>
#include <linux/wait.h>

/**
 * struct klp_holder - what the holding functions wait for
 * @hold:	they wait while this is set
 * @inside:	how many tasks are inside one of them
 * @released:	woken when @hold is cleared
 */
struct klp_holder {
	bool hold;
	atomic_t inside;
	wait_queue_head_t released;
};

/* Inline, so that the function whose stack is checked is the caller's. */
static __always_inline bool klp_holder_released(const struct klp_holder *holder)
{
	return !READ_ONCE(holder->hold);
}

/* Wakes up for nothing when the livepatch core wakes kthreads: goes on waiting. */
static __always_inline void klp_holder_do_sleep(struct klp_holder *holder)
{
	atomic_inc(&holder->inside);
	wait_event_interruptible(holder->released, klp_holder_released(holder));
	atomic_dec(&holder->inside);
}

static __always_inline void klp_holder_do_stuck(struct klp_holder *holder)
{
	atomic_inc(&holder->inside);
	wait_event(holder->released, klp_holder_released(holder));
	atomic_dec(&holder->inside);
}

static __always_inline void klp_holder_do_spin(struct klp_holder *holder)
{
	atomic_inc(&holder->inside);
	while (!klp_holder_released(holder))
		cond_resched();
	atomic_dec(&holder->inside);
}

/* For a user's task: returns -ERESTARTSYS when it is signalled. */
static __always_inline int klp_holder_do_read(struct klp_holder *holder)
{
	int err;

	atomic_inc(&holder->inside);
	err = wait_event_interruptible(holder->released,
				       klp_holder_released(holder));
	atomic_dec(&holder->inside);
	return err;
}

#endif /* KLP_HOLDER_H */
