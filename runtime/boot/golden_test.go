package boot

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compiles each testdata/NAME.json, a specification with the facts beside it, and compares the program with NAME.golden. Read
// the golden files: they are the documentation of what zap does to start a container.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Facts *Facts
				Exec  *ExecFacts
				Spec  specs.Spec
			}
			decoder := json.NewDecoder(bytes.NewReader(data))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&c); err != nil {
				t.Fatal(err)
			}
			var p *Program
			if c.Exec != nil {
				p, err = CompileExec(c.Spec.Process, *c.Exec)
			} else {
				p, err = Compile(&c.Spec, *c.Facts)
			}
			got := fmt.Sprintf("error: %v\n", err)
			if err == nil {
				got = p.String()
			}
			golden := strings.TrimSuffix(input, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs (go test -update writes it anew):\n%s", golden, firstDifference(got, string(want)))
			}
		})
	}
}

// firstDifference shows the first line that differs.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// TestJumpsLeadForward checks the one property that keeps the child from looping.
func TestJumpsLeadForward(t *testing.T) {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}, Env: []string{"PATH=/bin:/usr/bin"}, Cwd: "/", Terminal: true},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/a/b", Type: "bind", Source: "/x"}},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		},
	}
	p, err := Compile(s, Facts{Root: "/rootfs", Gate: GateSocket})
	if err != nil {
		t.Fatal(err)
	}
	for i, op := range p.Ops {
		for _, to := range []int{op.Then, op.Else} {
			if to != 0 && (to <= i || to >= len(p.Ops)) {
				t.Errorf("operation %d leads to %d of %d: %s", i, to, len(p.Ops), p.opText(&op))
			}
		}
		if len(op.Args) > 6 {
			t.Errorf("operation %d has %d arguments", i, len(op.Args))
		}
		if op.Nr < 1<<20 && strings.HasPrefix(callName(op.Nr), "syscall_") {
			t.Errorf("operation %d: system call %d has no name", i, op.Nr)
		}
	}
}

// TestRefused checks that what protects a container is refused rather than left out.
func TestRefused(t *testing.T) {
	base := func() *specs.Spec {
		return &specs.Spec{
			Process: &specs.Process{Args: []string{"sh"}, Cwd: "/"},
			Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
		}
	}
	for path, change := range map[string]func(*specs.Spec){
		"linux.seccomp.flags[0]": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"x"}}
		},
		"linux.mountLabel":         func(s *specs.Spec) { s.Linux.MountLabel = "x" },
		"process.apparmorProfile":  func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"process.selinuxLabel":     func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"process.args":             func(s *specs.Spec) { s.Process.Args = nil },
		"process.scheduler.policy": func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "X"} },
		"process.ioPriority.class": func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "X"} },
		"linux.memoryPolicy.mode":  func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "X"} },
		"linux.memoryPolicy.nodes": func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "1-0"} },
		"linux.personality.domain": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} },
		"process.rlimits[0]":       func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"linux.namespaces[1]":      func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"linux.devices":            func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}} },
		"mounts[0].destination":    func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/proc/self/attr", Type: "tmpfs"}} },
	} {
		s := base()
		change(s)
		if _, err := Compile(s, Facts{Root: "/rootfs"}); err == nil || !strings.Contains(err.Error(), "(config.json: "+path+")") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestGangwayImage checks the parts of the ELF file that the kernel reads.
func TestGangwayImage(t *testing.T) {
	image := gangwayImage(5, 2, 77, nil)
	if !bytes.HasPrefix(image, []byte("\x7fELF")) || len(image) != gangwaySize {
		t.Fatalf("%d bytes, beginning with %x", len(image), image[:4])
	}
	if params := image[gangwayParams:]; params[0] != 5 || params[4] != 2 || params[8] != 77 {
		t.Errorf("parameters %v", params)
	}
	if bytes.Equal(image[gangwayCode:gangwayCode+32], make([]byte, 32)) {
		t.Error("no code")
	}
}

// TestDecode checks that messages are bounded by the program they are about.
func TestDecode(t *testing.T) {
	p := &Program{Ops: []Op{{Nr: unix.SYS_CHDIR, Args: []Arg{text("/x")}, What: "change to working directory /x", Origin: "config.json: process.cwd"}}}
	for _, message := range [][]byte{nil, {1, 2, 3}, {1, 0, 0, 0, 2, 0, 0, 0}, {255, 255, 255, 255, 2, 0, 0, 0}, make([]byte, 9)} {
		if _, err := p.Decode(message); err == nil {
			t.Errorf("%v was accepted", message)
		}
	}
	_, err := p.Decode([]byte{0, 0, 0, 0, 2, 0, 0, 0})
	if want := "change to working directory /x: no such file or directory (config.json: process.cwd) in chdir(\"/x\")"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if mark, err := p.Decode([]byte{0, 0, 0, 0, 0, 0, 0, 0}); err != nil || mark != p.Ops[0].What {
		t.Errorf("got %q, %v", mark, err)
	}
}

// TestGangway runs the gangway with candidates that can and can't be executed, and by way of itself.
func TestGangway(t *testing.T) {
	for _, test := range []struct {
		name       string
		candidates []string
		output     string
		errno      unix.Errno // 0: executed
	}{
		{"second", []string{"/nothing", "/etc/passwd/x", "/bin/echo"}, "word\n", 0},
		{"missing", []string{"/nothing", "/etc/passwd/x"}, "", unix.ENOENT},
		{"directory", []string{"/nothing", "/etc", "/missing"}, "", unix.EACCES},
		{"itself", []string{"/proc/self/exe"}, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			parent, child := os.NewFile(uintptr(pair[0]), "parent"), os.NewFile(uintptr(pair[1]), "child")
			defer parent.Close()
			gangway := filepath.Join(t.TempDir(), "gangway")
			if err := os.WriteFile(gangway, gangwayImage(3, len(test.candidates), 77, nil), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(gangway)
			cmd.Args = append(append([]string{}, test.candidates...), "echo", "word")
			cmd.ExtraFiles = []*os.File{child}
			out, err := cmd.Output()
			child.Close()
			if string(out) != test.output {
				t.Errorf("output %q, %v", out, err)
			}
			message := make([]byte, 16)
			n, _ := parent.Read(message)
			want := []byte{}
			if test.errno != 0 {
				want = []byte{77, 0, 0, 0, byte(test.errno), 0, 0, 0}
			}
			if !bytes.Equal(message[:max(n, 0)], want) {
				t.Errorf("report %v, want %v", message[:max(n, 0)], want)
			}
		})
	}
}
