package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// asZap makes this test binary behave as zap itself.
const asZap = "ZAP_TEST_AS_ZAP"

func init() {
	if os.Getenv(asZap) != "" {
		os.Exit(run(context.Background(), os.Args[1:]))
	}
}

// ociLab is a --root of its own and a bundle of busybox's programs.
type ociLab struct {
	t      *testing.T
	root   string
	bundle string
	spec   *specs.Spec
}

func newOCILab(t *testing.T) *ociLab {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes containers")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs Debian's busybox-static (make deps): %v", err)
	}
	l := &ociLab{t: t, root: filepath.Join(t.TempDir(), "root"), bundle: t.TempDir(), spec: spec.Default()}
	bin := filepath.Join(l.bundle, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"sh", "cat", "id", "sleep", "tty", "stty", "true", "env", "grep", "ls", "sort"} {
		if err := os.Symlink("busybox", filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	l.spec.Process.Terminal = false
	l.spec.Linux.CgroupsPath = fmt.Sprintf("/zap-cli-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	return l
}

// program writes the bundle's config.json with a shell script as the program.
func (l *ociLab) program(script string) {
	l.t.Helper()
	l.spec.Process.Args = []string{"sh", "-c", script}
	l.writeSpec()
}

// writeSpec writes the bundle's config.json.
func (l *ociLab) writeSpec() {
	l.t.Helper()
	data, err := json.Marshal(l.spec)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.bundle, "config.json"), data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// command is zap with arguments, bounded in time.
func (l *ociLab) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	l.t.Cleanup(cancel)
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, append([]string{"--root", l.root}, args...)...)
	cmd.Env = append(os.Environ(), asZap+"=1")
	cmd.Dir = l.bundle
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// zap runs zap and returns what it wrote and its exit code.
func (l *ociLab) zap(args ...string) (stdout, stderr string, code int) {
	l.t.Helper()
	cmd := l.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatalf("zap %v: %v\n%s", args, err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is zap for calls that have to succeed.
func (l *ociLab) must(args ...string) string {
	l.t.Helper()
	out, errs, code := l.zap(args...)
	if code != 0 {
		l.t.Fatalf("zap %v: exit code %d\n%s", args, code, errs)
	}
	return out
}

// start creates and starts a container without streams, and removes it at the end.
func (l *ociLab) start(id string) {
	l.t.Helper()
	for _, args := range [][]string{{"create", id}, {"start", id}} {
		if err := l.command(args...).Run(); err != nil {
			l.t.Fatalf("zap %v: %v", args, err)
		}
	}
	l.t.Cleanup(func() { _ = l.command("delete", "--force", id).Run() })
}

func TestVerbs(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.spec.Annotations = map[string]string{"key": "value"}
	l.program("sleep 1000")
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := l.command("create", "--bundle", l.bundle, "--pid-file", pidFile, "one").Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	state := func() (s struct {
		OCIVersion, ID, Status, Bundle, Rootfs, Created, Owner string
		Pid                                                    int
		Annotations                                            map[string]string
	},
	) {
		t.Helper()
		if err := json.Unmarshal([]byte(l.must("state", "one")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := state()
	pid, err := os.ReadFile(pidFile)
	if err != nil || string(pid) != strconv.Itoa(s.Pid) {
		t.Errorf("pid file %q, state %d, %v", pid, s.Pid, err)
	}
	if s.Status != "created" || s.ID != "one" || s.Bundle != l.bundle || s.Rootfs != l.bundle+"/rootfs" || s.Owner != "root" ||
		s.OCIVersion != l.spec.Version || !reflect.DeepEqual(s.Annotations, l.spec.Annotations) {
		t.Errorf("state %+v", s)
	}
	if _, err := time.Parse(time.RFC3339Nano, s.Created); err != nil {
		t.Error(err)
	}
	l.must("start", "one")
	if s := state(); s.Status != "running" {
		t.Errorf("status %s after start", s.Status)
	}
	if _, errs, code := l.zap("create", "one"); code != 1 || !strings.Contains(errs, "already exists") {
		t.Errorf("second create: exit code %d, %s", code, errs)
	}
	if _, errs, code := l.zap("delete", "one"); code != 1 || !strings.Contains(errs, "running") {
		t.Errorf("delete of a running container: exit code %d, %s", code, errs)
	}
	l.must("kill", "one", "SIGKILL")
	for state().Status != "stopped" {
		time.Sleep(time.Millisecond)
	}
	if s := state(); s.Pid != 0 {
		t.Errorf("pid %d after the end", s.Pid)
	}
	if _, errs, code := l.zap("kill", "one"); code != 1 || !strings.Contains(errs, "container not running") {
		t.Errorf("kill after the end: exit code %d, %s", code, errs)
	}
	l.must("delete", "one")
	if _, errs, code := l.zap("state", "one"); code != 1 || !strings.Contains(errs, "does not exist") {
		t.Errorf("state after delete: exit code %d, %s", code, errs)
	}
	l.must("delete", "--force", "one")
}

func TestListVerb(t *testing.T) {
	l := newOCILab(t)
	if _, errs, code := l.zap("list"); code != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("list without a root: exit code %d, %s", code, errs)
	}
	if err := os.Mkdir(l.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if out := l.must("list", "-f", "json"); out != "[]\n" {
		t.Errorf("empty list %q", out)
	}
	l.program("sleep 1000")
	l.start("one")
	if out := l.must("list", "-q"); out != "one\n" {
		t.Errorf("quiet list %q", out)
	}
	var all []containerView
	if err := json.Unmarshal([]byte(l.must("list", "--format", "json")), &all); err != nil || len(all) != 1 || all[0].Status != "running" {
		t.Errorf("list %+v, %v", all, err)
	}
	if out := l.must("list"); !strings.HasPrefix(out, "ID ") || !strings.Contains(out, "running") {
		t.Errorf("table\n%s", out)
	}
}

func TestRunVerb(t *testing.T) {
	l := newOCILab(t)
	l.program("echo out; echo err >&2; cat; exit 7")
	cmd := l.command("run", "one")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("in\n"), &out, &errs
	_ = cmd.Run()
	if out.String() != "out\nin\n" || errs.String() != "err\n" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d, output %q, errors %q", cmd.ProcessState.ExitCode(), out.String(), errs.String())
	}
	if entries, err := os.ReadDir(l.root); err != nil || len(entries) != 0 {
		t.Errorf("left in the root: %v, %v", entries, err)
	}
	l.spec.Process.Args = nil
	l.program("")
	l.spec.Process.Args = []string{"missing"}
	data, _ := json.Marshal(l.spec)
	if err := os.WriteFile(filepath.Join(l.bundle, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := l.zap("run", "one"); code != 1 || !strings.Contains(errs, "executable file not found in $PATH") {
		t.Errorf("missing program: exit code %d, %s", code, errs)
	}
}

// TestRunPassesSignals sends a signal to zap run; the program answers it.
func TestRunPassesSignals(t *testing.T) {
	l := newOCILab(t)
	l.program("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	cmd := l.command("run", "one")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
}

// TestRunPreservesDescriptors passes one descriptor on and keeps another back.
func TestRunPreservesDescriptors(t *testing.T) {
	l := newOCILab(t)
	l.program("cat <&3; [ -e /proc/self/fd/4 ] && echo four; true")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := writer.WriteString("three\n"); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := l.command("run", "--preserve-fds", "1", "one")
	cmd.ExtraFiles = []*os.File{reader, null}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if err := cmd.Wait(); err != nil || out.String() != "three\n" {
		t.Errorf("output %q, %v", out.String(), err)
	}
}

func TestExecVerb(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	if out := l.must("exec", "--cwd", "/bin", "-e", "KEY=value", "-u", "5:6", "-g", "7", "one", "sh", "-c", "pwd; echo $KEY; id -u; id -g; id -G"); out != "/bin\nvalue\n5\n6\n6 7\n" {
		t.Errorf("output %q", out)
	}
	if out := l.must("exec", "--cap", "CAP_SYS_ADMIN", "one", "grep", "CapEff", "/proc/self/status"); out != "CapEff:\t0000000020200420\n" {
		t.Errorf("output %q", out)
	}
	if _, _, code := l.zap("exec", "one", "sh", "-c", "exit 12"); code != 12 {
		t.Errorf("exit code %d, want 12", code)
	}
	if _, errs, code := l.zap("exec", "one", "missing"); code != 255 || !strings.Contains(errs, "executable file not found in $PATH") {
		t.Errorf("missing program: exit code %d, %s", code, errs)
	}
	process := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["/bin/sh","-c","echo $A"],"env":["A=from file"],"cwd":"/"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := l.must("exec", "--process", process, "one"); out != "from file\n" {
		t.Errorf("output %q", out)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := l.command("exec", "-d", "--pid-file", pidFile, "one", "sleep", "1000").Run(); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if comm, err := os.ReadFile("/proc/" + string(pid) + "/comm"); err != nil || string(comm) != "sleep\n" {
		t.Errorf("detached process %s: %q, %v", pid, comm, err)
	}
}

// TestRunOnTerminal runs a program that wants a terminal, with one of our own as zap's.
func TestRunOnTerminal(t *testing.T) {
	l := newOCILab(t)
	l.spec.Process.Terminal = true
	l.program("tty; stty size; read line; echo got $line")
	master, terminal := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 12, Col: 34}); err != nil {
		t.Fatal(err)
	}
	cmd := l.command("run", "one")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	if _, err := master.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	var out []byte
	buf := make([]byte, 1024)
	for {
		n, err := master.Read(buf)
		if out = append(out, buf[:n]...); err != nil {
			break // EIO when zap has closed it
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("zap run: %v", err)
	}
	for _, want := range []string{"/dev/pts/0\r\n", "12 34\r\n", "got word\r\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, terminal
}

func TestExplainVerb(t *testing.T) {
	l := newOCILab(t)
	l.program("true")
	out := l.must("explain", l.bundle)
	for _, want := range []string{"clone3(CLONE_NEWPID|SIGCHLD)", "# config.json: mounts[0]", `fsopen("proc", FSOPEN_CLOEXEC)`, "pivot_root", "execve("} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the program:\n%s", want, out)
		}
	}
	if _, err := os.Stat(l.root); err == nil {
		t.Error("explain made something")
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"9": unix.SIGKILL, "KILL": unix.SIGKILL, "sigterm": unix.SIGTERM, "SIGUSR1": unix.SIGUSR1, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-14": 50, "0": 0,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "65", "-1", "NOPE", "RTMIN+40", "RTMAX-x"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q is signal %d", text, got)
		}
	}
}
