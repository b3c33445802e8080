package seccomp

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// randomProfile makes a profile: a few rules about a few calls, so that they meet, or many about all.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{DefaultAction: pick(r, allActions())}
	if takesErrno(s.DefaultAction) && r.IntN(2) == 0 {
		s.DefaultErrnoRet = ptr(uint(r.IntN(50)))
	}
	for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchMIPS} {
		if r.IntN(2) == 0 {
			s.Architectures = append(s.Architectures, a)
		}
	}
	first, width := r.IntN(len(table)), 1+r.IntN(len(table))
	for range r.IntN(40) {
		rule := specs.LinuxSyscall{Action: pick(r, allActions())}
		if takesErrno(rule.Action) && r.IntN(2) == 0 {
			rule.ErrnoRet = ptr(uint(r.IntN(50)))
		}
		for range 1 + r.IntN(30) {
			rule.Names = append(rule.Names, table[(first+r.IntN(width))%len(table)].name)
		}
		if r.IntN(4) == 0 {
			rule.Names = append(rule.Names, pick(r, []string{"socket", "socketcall", "shmat", "ipc", "send", "nothing_of_this_name"}))
		}
		if r.IntN(2) == 0 {
			rule.Args = randomArgs(r)
		}
		s.Syscalls = append(s.Syscalls, rule)
	}
	return s
}

func allActions() (out []specs.LinuxSeccompAction) {
	for _, a := range actions {
		out = append(out, a.name)
	}
	return out
}

func takesErrno(a specs.LinuxSeccompAction) bool { return a == specs.ActErrno || a == specs.ActTrace }

func ptr[T any](v T) *T { return &v }

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// values are numbers whose halves meet.
var values = []uint64{
	0, 1, 2, 16, 255, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 2, 2 << 32, 2<<32 + 16, 1 << 63, 1<<64 - 1, 1<<64 - 2, 0xdeadbeefcafe,
}

func randomArgs(r *rand.Rand) (args []specs.LinuxSeccompArg) {
	ops := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual,
	}
	for range 1 + r.IntN(3) {
		args = append(args, specs.LinuxSeccompArg{
			Index: uint(r.IntN(6)), Value: pick(r, values), ValueTwo: pick(r, values), Op: pick(r, ops),
		})
	}
	return args
}

// randomCall makes a call that a profile may have something to say about.
func randomCall(r *rand.Rand, s *specs.LinuxSeccomp, goarch string) *systemCall {
	machine := machines[goarch]
	abi := pick(r, machine)
	c := &systemCall{arch: abis[abi].audit, number: number(abi, uint32(r.IntN(600)))}
	switch r.IntN(8) {
	case 0:
		c.number = r.Uint32()
	case 1:
		c.number = pick(r, []uint32{0, ^uint32(0), x32Bit - 1, x32Bit, privateCall, privateCall + 2, privateCall + 9, 1<<31 - 1})
	case 2:
		c.arch = pick(r, []uint32{unix.AUDIT_ARCH_S390X, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_I386, r.Uint32()})
	case 3, 4, 5:
		if len(s.Syscalls) > 0 {
			if e, ok := lookup(pick(r, pick(r, s.Syscalls).Names)); ok && e.numbers[abi] != noCall {
				c.number = number(abi, uint32(e.numbers[abi]))
			}
		}
	}
	for i := range c.args {
		c.args[i] = pick(r, values)
		if r.IntN(8) == 0 {
			c.args[i] = uint64(r.IntN(25))
		}
	}
	return c
}

// compare runs a profile's filter on random calls and compares with what the profile says.
func compare(t *testing.T, r *rand.Rand, s *specs.LinuxSeccomp, goarch string, calls int) {
	t.Helper()
	f, err := Compile(s, goarch)
	if e := new(Error); errors.As(err, &e) && strings.Contains(err.Error(), "instructions, more than 4096") {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for range calls {
		c := randomCall(r, s, goarch)
		got, _, err := interpret(f.Program, c)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := evaluate(s, goarch, c); got != want {
			t.Fatalf("%s, call %+v: %s, want %s\nprofile %+v", goarch, *c, got, want, s)
		}
	}
}

// TestMeaning compares filters with what their profiles say, for random profiles and calls.
func TestMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	profiles := 500
	if testing.Short() {
		profiles = 100
	}
	for i := range profiles {
		compare(t, r, randomProfile(r), []string{"amd64", "arm64"}[i%2], 300)
	}
}

// FuzzMeaning does the same with profiles and calls that a fuzzer chooses the seeds of.
func FuzzMeaning(f *testing.F) {
	f.Add(uint64(1), uint64(2), true)
	f.Fuzz(func(t *testing.T, a, b uint64, x86 bool) {
		r := rand.New(rand.NewPCG(a, b))
		goarch := "arm64"
		if x86 {
			goarch = "amd64"
		}
		compare(t, r, randomProfile(r), goarch, 100)
	})
}

// TestEveryCall compares the filter of a profile as engines have it for every number of every ABI.
func TestEveryCall(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		s := enginesProfile(goarch)
		f, err := Compile(s, goarch)
		if err != nil {
			t.Fatal(err)
		}
		most, all, count := 0, 0, 0
		for _, abi := range machines[goarch] {
			for n := range uint32(tableSize + 100) {
				for _, v := range []uint64{0, 16, 8, 0x20000, 0x7e020000, 1<<32 + 16, 1<<64 - 1} {
					c := &systemCall{arch: abis[abi].audit, number: number(abi, n), args: [6]uint64{v, v, v, v, v, v}}
					got, steps, err := interpret(f.Program, c)
					if err != nil {
						t.Fatal(err)
					}
					if want, _ := evaluate(s, goarch, c); got != want {
						t.Fatalf("%s, call %+v: %s, want %s", goarch, *c, got, want)
					}
					most, all, count = max(most, steps), all+steps, count+1
				}
			}
		}
		// The most are for what may come by way of socketcall.
		if most > 80 || all > 15*count || len(f.Program) > 500 {
			t.Errorf("%s: a call takes %d of %d instructions, %d at most", goarch, all/count, len(f.Program), most)
		}
	}
}

// enginesProfile is a profile like the default of podman and docker: everything but what changes the machine, a few calls by their
// arguments, all ABIs of the machine.
func enginesProfile(goarch string) *specs.LinuxSeccomp {
	refused := map[string]bool{}
	for _, name := range []string{
		"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "clone", "clone3", "create_module", "delete_module", "fanotify_init",
		"finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "get_mempolicy", "init_module", "ioperm", "iopl", "kcmp",
		"kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "mount", "mount_setattr", "move_mount", "move_pages", "nfsservctl",
		"open_by_handle_at", "open_tree", "perf_event_open", "personality", "pivot_root", "process_madvise", "ptrace", "query_module", "quotactl",
		"reboot", "request_key", "set_mempolicy", "setns", "settimeofday", "socket", "socketcall", "stime", "swapoff", "swapon", "sysfs",
		"syslog", "umount", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old", "vmsplice",
	} {
		refused[name] = true
	}
	allow := specs.LinuxSyscall{Action: specs.ActAllow}
	for _, e := range table {
		if !refused[e.name] {
			allow.Names = append(allow.Names, e.name)
		}
	}
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(1)), Syscalls: []specs.LinuxSyscall{allow}}
	for _, abi := range machines[goarch] {
		s.Architectures = append(s.Architectures, abis[abi].arch)
	}
	arg := func(i uint, op specs.LinuxSeccompOperator, v, two uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: two}
	}
	for _, v := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
			Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, v, 0)},
		})
	}
	s.Syscalls = append(
		s.Syscalls,
		specs.LinuxSyscall{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpMaskedEqual, 0x7e020000, 0)}},
		specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(38))},
		specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(22)),
			Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 16, 0), arg(2, specs.OpEqualTo, 9, 0)},
		},
		specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(2, specs.OpNotEqual, 9, 0)}},
		specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpNotEqual, 16, 0)}},
	)
	return s
}

// BenchmarkCompile measures a profile like the engines'.
func BenchmarkCompile(b *testing.B) {
	s := enginesProfile("amd64")
	f, _ := Compile(s, "amd64")
	b.ReportMetric(float64(len(f.Program)), "instructions")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
