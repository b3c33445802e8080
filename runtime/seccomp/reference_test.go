package seccomp

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// reference is libseccomp behind testdata/reference.c.
type reference struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func newReference(t *testing.T) *reference {
	if runtime.GOARCH != "amd64" {
		t.Skip("the profiles are for amd64")
	}
	binary := filepath.Join(t.TempDir(), "reference")
	if out, err := exec.Command("gcc", "-o", binary, "testdata/reference.c", "-lseccomp").CombinedOutput(); err != nil {
		t.Skipf("needs gcc and libseccomp-dev: %v %s", err, out)
	}
	cmd := exec.Command(binary)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("reference: %v", err)
		}
	})
	return &reference{in, bufio.NewReader(out)}
}

// forget removes from a profile the system calls that are too new for the libseccomp at hand.
func (r *reference) forget(t *testing.T, s *specs.LinuxSeccomp) {
	t.Helper()
	for i := range s.Syscalls {
		s.Syscalls[i].Names = slices.DeleteFunc(s.Syscalls[i].Names, func(name string) bool {
			known := 0
			fmt.Fprintf(r.in, "known %s\n", name)
			if _, err := fmt.Fscanln(r.out, &known); err != nil {
				t.Fatal(err)
			}
			return known == 0 || name == "map_shadow_stack" // which libseccomp 2.5 does not have in x32
		})
	}
	s.Syscalls = slices.DeleteFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return len(c.Names) == 0 })
}

// compile has libseccomp compile a profile the way runc does; nil when it can't, because rules contradict each other.
func (r *reference) compile(t *testing.T, s *specs.LinuxSeccomp) (program []unix.SockFilter) {
	t.Helper()
	standard, err := parseAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "profile %d\n", libAction(standard))
	for _, a := range s.Architectures {
		switch a {
		case specs.ArchX86:
			b.WriteString("arch x86\n")
		case specs.ArchX32:
			b.WriteString("arch x32\n")
		}
	}
	for _, rule := range s.Syscalls {
		action, err := parseAction(rule.Action, rule.ErrnoRet)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range rule.Names {
			if action == standard {
				continue
			}
			twice := map[uint]int{}
			for _, a := range rule.Args {
				twice[a.Index]++
			}
			if len(twice) == len(rule.Args) {
				fmt.Fprintf(&b, "rule %d %s %d", libAction(action), name, len(rule.Args))
			}
			for _, a := range rule.Args {
				if len(twice) != len(rule.Args) {
					fmt.Fprintf(&b, "\nrule %d %s 1", libAction(action), name)
				}
				fmt.Fprintf(&b, " %d %s %d %d", a.Index, a.Op, a.Value, a.ValueTwo)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("end\n")
	go io.WriteString(r.in, b.String())
	var n int
	line, err := r.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(line, "error") {
		return nil
	}
	fmt.Sscan(line, &n)
	program = make([]unix.SockFilter, n)
	for i := range program {
		p := &program[i]
		if _, err := fmt.Fscan(r.out, &p.Code, &p.Jt, &p.Jf, &p.K); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = r.out.ReadString('\n')
	return program
}

// libAction is an action as libseccomp has it, which differs for KILL_THREAD in nothing.
func libAction(a Action) uint32 { return uint32(a) }

// TestReference compares with the filters that libseccomp makes of the same profiles.
func TestReference(t *testing.T) {
	lib := newReference(t)
	r := rand.New(rand.NewPCG(3, 4))
	profiles := 200
	if testing.Short() {
		profiles = 40
	}
	compared, calls, contested := 0, 0, 0
	for i := range profiles {
		s := randomProfile(r)
		if i == 0 {
			s = enginesProfile("amd64")
		}
		lib.forget(t, s)
		theirs := lib.compile(t, s)
		if theirs == nil {
			continue
		}
		compared++
		ours, err := Compile(s, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			c := randomCall(r, s, "amd64")
			got, _, err := interpret(ours.Program, c)
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := interpret(theirs, c)
			if err != nil {
				t.Fatal(err)
			}
			if got == refuseNew { // runc puts this before libseccomp's
				continue
			}
			calls++
			if got == want {
				continue
			}
			// Where rules contradict each other, libseccomp's tree of comparisons does not always lead to one that applies.
			if contradictory(s, c) {
				contested++
				continue
			}
			t.Errorf("profile %d, call %+v: %s, and libseccomp says %s", i, *c, got, want)
		}
	}
	if contested > calls/1000 {
		t.Errorf("of %d calls %d are decided otherwise, where rules contradict each other", calls, contested)
	}
	if compared < profiles/4 {
		t.Errorf("compared %d of %d profiles", compared, profiles)
	}
}

// contradictory says whether several rules with arguments are about a call.
func contradictory(s *specs.LinuxSeccomp, c *systemCall) bool {
	rules := 0
	for _, r := range s.Syscalls {
		for _, name := range r.Names {
			if name == nameOf(callABI(s, "amd64", c), c.number&^x32Bit) {
				rules += len(r.Args)
			}
		}
	}
	return rules > 1
}
