// reference compiles profiles with libseccomp, as runc and crun use it, for TestReference. It reads lines of words:
//
//	profile ACTION         the default action, as libseccomp's number; begins a profile
//	arch NAME              adds an ABI: x86, x32
//	rule ACTION NAME N     followed by N conditions on one line: INDEX OP VALUE TWO
//	end                    writes "N" and N lines "CODE JT JF K", or "error"
//	known NAME             writes 1 if libseccomp has the system call, else 0
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum scmp_compare operator(const char *name) {
	static const struct { const char *name; enum scmp_compare op; } all[] = {
		{"SCMP_CMP_NE", SCMP_CMP_NE}, {"SCMP_CMP_LT", SCMP_CMP_LT}, {"SCMP_CMP_LE", SCMP_CMP_LE}, {"SCMP_CMP_EQ", SCMP_CMP_EQ},
		{"SCMP_CMP_GE", SCMP_CMP_GE}, {"SCMP_CMP_GT", SCMP_CMP_GT}, {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
	};
	for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++)
		if (!strcmp(all[i].name, name)) return all[i].op;
	exit(2);
}

static void rule(scmp_filter_ctx ctx, int *failed) {
	uint32_t action;
	char name[64], op[32];
	unsigned n, index;
	uint64_t a, b;
	struct scmp_arg_cmp args[6];
	if (scanf("%u %63s %u", &action, name, &n) != 3 || n > 6) exit(2);
	for (unsigned i = 0; i < n; i++) {
		if (scanf("%u %31s %lu %lu", &index, op, &a, &b) != 4) exit(2);
		args[i] = (struct scmp_arg_cmp){index, operator(op), a, b};
	}
	int number = seccomp_syscall_resolve_name(name);
	if (number == __NR_SCMP_ERROR) return;
	if (seccomp_rule_add_array(ctx, action, number, n, args) < 0) *failed = 1;
}

static void end(scmp_filter_ctx ctx, int failed) {
	struct { uint16_t code; uint8_t jt, jf; uint32_t k; } insn;
	FILE *f = tmpfile();
	long n = 0;
	if (failed || seccomp_export_bpf(ctx, fileno(f)) < 0) {
		printf("error\n");
	} else {
		n = lseek(fileno(f), 0, SEEK_END) / sizeof insn;
		printf("%ld\n", n);
		rewind(f);
		while (n-- > 0 && fread(&insn, sizeof insn, 1, f) == 1) printf("%u %u %u %u\n", insn.code, insn.jt, insn.jf, insn.k);
	}
	fclose(f);
	seccomp_release(ctx);
	fflush(stdout);
}

int main(void) {
	char word[32];
	uint32_t action;
	scmp_filter_ctx ctx = NULL;
	int failed = 0;
	while (scanf("%31s", word) == 1) {
		if (!strcmp(word, "profile")) {
			if (scanf("%u", &action) != 1) return 2;
			ctx = seccomp_init(action);
			failed = ctx == NULL;
		} else if (!strcmp(word, "arch")) {
			if (scanf("%31s", word) != 1) return 2;
			if (seccomp_arch_add(ctx, !strcmp(word, "x86") ? SCMP_ARCH_X86 : SCMP_ARCH_X32) < 0) failed = 1;
		} else if (!strcmp(word, "rule")) {
			rule(ctx, &failed);
		} else if (!strcmp(word, "known")) {
			char name[64];
			if (scanf("%63s", name) != 1) return 2;
			printf("%d\n", seccomp_syscall_resolve_name(name) != __NR_SCMP_ERROR);
			fflush(stdout);
		} else if (!strcmp(word, "end")) {
			end(ctx, failed);
		} else {
			return 2;
		}
	}
	return 0;
}
