// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_callers.bpf.c - Who called a function, with the kernel stack if asked for; a part of
 * klpshadow.bpf.c.
 */
#ifdef STACKS
#define STACK_SIZE 16384 /* the kernel stack's; in a larger one depths are told modulo this */

/* A way by which a function was called: where it returns to, and how far down the kernel stack. */
struct way_t {
	u64 caller;
	u64 depth;
};

BPF_STACK_TRACE(stacks, 2048);
BPF_TABLE("lru_hash", struct way_t, s32, ways, 4096); /* the stack of each */

/*
 * Unwinding a stack would be a third of what an event costs (9 of 25 us on an emulated CPU), and the same
 * functions call again and again: so it is done once for each caller and depth.
 */
static __always_inline s32 stack_of(struct pt_regs *ctx)
{
	struct way_t way = {};
	s32 *known, stack;

	way.caller = PT_REGS_IP(ctx);
	way.depth = PT_REGS_SP(ctx) % STACK_SIZE;
	known = ways.lookup(&way);
	if (known)
		return *known;
	stack = stacks.get_stackid(ctx, 0);
	if (stack >= 0)
		ways.update(&way, &stack);
	return stack;
}
#endif

/* In a return probe the instruction pointer is where the function returns to. */
static __always_inline void set_caller(struct event_t *event, struct pt_regs *ctx)
{
	event->caller = PT_REGS_IP(ctx);
#ifdef STACKS
	event->stack = stack_of(ctx);
#endif
}
