package seccomp

import (
	"errors"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestPolicyText shows a profile for people.
func TestPolicyText(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"write", "read", "not_a_call"}, Action: specs.ActAllow},
			{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(2))},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
				{Index: 0, Op: specs.OpMaskedEqual, Value: 0x7e020000}, {Index: 1, Op: specs.OpGreaterThan, Value: 5},
			}},
			{Names: []string{"bind"}, Action: specs.ActKillProcess},
		},
	}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	const want = `default ERRNO EPERM, ERRNO ENOSYS for calls newer than the profile; KILL_THREAD for other ABIs
x86_64
  ERRNO ENOENT mkdir
  ALLOW read write
  KILL_PROCESS bind
  ALLOW clone if arg0 & 0x7e020000 == 0x0 and arg1 > 0x5
x86
  ERRNO ENOENT mkdir
  ALLOW read write
  KILL_PROCESS bind
  KILL_PROCESS socketcall if arg0 == 0x2
  ALLOW clone if arg0 & 0x7e020000 == 0x0 and arg1 > 0x5
`
	if got := f.Policy.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestCompileErrors names the place of what can't be compiled.
func TestCompileErrors(t *testing.T) {
	rule := func(r specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{r}}
	}
	many := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno}
	long := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for i := range 2000 {
		many.Args = []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: uint64(i)}}
		long.Syscalls = append(long.Syscalls, many)
	}
	for want, s := range map[string]*specs.LinuxSeccomp{
		"linux.seccomp.defaultAction":       {DefaultAction: "SCMP_ACT_NOTHING"},
		"linux.seccomp.flags[1]":            {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{flagTsync, "X"}},
		"linux.seccomp.syscalls[0].action":  rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: ptr(uint(1))}),
		"linux.seccomp.syscalls[0].args[0]": rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{Index: 6}}}),
		"linux.seccomp.syscalls":            long,
	} {
		_, err := Compile(s, "amd64")
		if e := new(Error); !errors.As(err, &e) || !strings.HasPrefix(e.Path, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := Compile(long, "mips"); err == nil {
		t.Error("compiled for a machine that there are no numbers for")
	}
	if f, err := Compile(&specs.LinuxSeccomp{}, "amd64"); f != nil || err != nil {
		t.Errorf("an empty section: %v, %v", f, err)
	}
}

// TestFlags turns flags into the kernel's.
func TestFlags(t *testing.T) {
	notify := []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}
	for _, test := range []struct {
		flags []specs.LinuxSeccompFlag
		rules []specs.LinuxSyscall
		want  uint
	}{
		{nil, nil, 4},
		{[]specs.LinuxSeccompFlag{}, nil, 0},
		{[]specs.LinuxSeccompFlag{flagTsync}, nil, 0},
		{[]specs.LinuxSeccompFlag{flagTsync, specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}, nil, 6},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, notify, 40},
		{nil, notify, 12},
	} {
		f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: test.flags, Syscalls: test.rules}, "amd64")
		if err != nil || f.Flags != test.want || f.Listener() != (test.rules != nil) {
			t.Errorf("%v: %+v, %v", test.flags, f, err)
		}
	}
}
