// SPDX-License-Identifier: Apache-2.0
/*
 * klpname.bpf.c - Name an address as the kernel's own %pS does; a part of every tool, run by klpname.py.
 *
 * bpf_snprintf takes a format only from a map that nobody can write to any more.
 */
struct symbol_format_t {
	char text[8];
};

struct symbol_t {
	char text[1024]; /* KSYM_SYMBOL_LEN is some 640, since KSYM_NAME_LEN is 512 (6.1) */
};

BPF_F_TABLE("array", int, struct symbol_format_t, symbol_format, 1, BPF_F_RDONLY_PROG);
BPF_F_TABLE("array", int, struct symbol_t, symbol_found, 1, BPF_F_MMAPABLE);

int klp_name(struct bpf_raw_tracepoint_args *ctx)
{
	struct symbol_format_t *format;
	struct symbol_t *found;
	u32 zero = 0;
	u64 address;

	format = symbol_format.lookup(&zero);
	found = symbol_found.lookup(&zero);
	if (!format || !found)
		return 0;
	address = ctx->args[0];
	return bpf_snprintf(found->text, sizeof(found->text), format->text, &address, sizeof(address));
}
