// SPDX-License-Identifier: Apache-2.0
/*
 * klpshadow_callers.bpf.c - Who called a function, with the kernel stack if asked for; a part of
 * klpshadow.bpf.c.
 */
#ifdef STACKS
BPF_STACK_TRACE(stacks, 2048);

/*
 * Unwinding a stack would be a third of what an event costs (9 of 25 us on an emulated CPU), and the same
 * functions call again and again: so it is done once for each way by which a function is called. Two ways
 * may have one caller and go down the stack as far: what tells them apart is what lies on it in between.
 */
#ifdef __x86_64__
#define STACK_SIZE 16384
#define WORDS 512 /* a stack that goes deeper is unwound for each event */
#define TEXT 0xffffffff80000000UL /* here the kernel's begins, and modules' lies behind it, to the end */
#define TEXT_BITS 31

struct way_t {
	u64 caller; /* where the function returns to */
	u64 words; /* on the stack */
	u64 addresses; /* a hash of those that may be of code, by their places */
};

struct words_t {
	u64 word[WORDS];
};

BPF_PERCPU_ARRAY(on_stack, struct words_t, 1);
BPF_TABLE("lru_hash", struct way_t, s32, ways, 4096); /* the stack of each */

/*
 * Return whether a way is all that lies on the stack. In an interrupt it is not: the stack of interrupts
 * ends in a pointer to the one that was interrupted, a task's own in the registers of user space.
 */
static __always_inline bool read_way(struct pt_regs *ctx, struct way_t *way)
{
	u64 place = PT_REGS_SP(ctx), hash = PT_REGS_IP(ctx);
	u32 zero = 0, size = STACK_SIZE - place % STACK_SIZE;
	struct words_t *on = on_stack.lookup(&zero);

	if (!on || size > sizeof(*on) || bpf_probe_read_kernel(on->word, size, (void *)place))
		return false;
	way->caller = PT_REGS_IP(ctx);
	way->words = size / sizeof(u64);
	for (u32 i = 0; i < WORDS; i++) {
		u64 word, beyond;

		asm volatile("" : "+r"(i)); /* or clang counts otherwise, and the verifier not to the end */
		if (i >= way->words)
			break;
		word = on->word[i];
		beyond = (word - TEXT) >> TEXT_BITS;
		asm volatile("" : "+r"(beyond)); /* or clang branches, and the verifier goes both ways each time */
		hash = (hash ^ (word & -(beyond - 1 >> 63))) * 0x9e3779b97f4a7c15UL;
	}
	way->addresses = hash;
	return (s64)on->word[(way->words - 1) % WORDS] >= 0;
}

#endif

static __always_inline s32 stack_of(struct pt_regs *ctx)
{
#ifdef __x86_64__
	struct way_t way = {};
	s32 *known, stack;

	if (read_way(ctx, &way)) {
		known = ways.lookup(&way);
		if (known)
			return *known;
		stack = stacks.get_stackid(ctx, 0);
		if (stack >= 0)
			ways.update(&way, &stack);
		return stack;
	}
#endif
	return stacks.get_stackid(ctx, 0);
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
