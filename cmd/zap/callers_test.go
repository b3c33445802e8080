package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestExecExitCodes: 255 is for what kept the process from running, everything else is the process's own.
func TestExecExitCodes(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	for _, c := range []struct {
		args string
		want int
		text string
	}{
		{"one sh -c exit\u00a042", 42, ""},
		{"one sh -c kill\u00a0-9\u00a0$$", 137, ""},
		{"none true", 255, "does not exist"},
		{"one none", 255, "executable file not found in $PATH"},
		{"--pid-file /none/file one true", 255, "no such file or directory"},
		{"--detach --tty one true", 255, "cannot allocate tty if runc will detach without setting console socket"},
		{"--console-socket /none one true", 255, "cannot use console socket if runc will not detach or allocate tty"},
		{"--preserve-fds 2 one true", 255, "bad file descriptor"},
		{"--user x one true", 255, "--user"},
		{"one", 255, "exec args cannot be empty"},
		{"", 1, "usage: zap exec"},
	} {
		args := strings.Fields(c.args)
		if c.args != "" {
			args = strings.Split(c.args, " ") // a script's own blanks are hard ones here
		}
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\u00a0", " ")
		}
		if _, errs, code := l.zap(append([]string{"exec"}, args...)...); code != c.want || !strings.Contains(errs, c.text) {
			t.Errorf("exec %s: exit code %d, %q, want %d, %q", c.args, code, errs, c.want, c.text)
		}
	}
}

// TestExecChangesOnlyWhatFlagsSay compares rights of another process with and without flags.
func TestExecChangesOnlyWhatFlagsSay(t *testing.T) {
	l := newOCILab(t)
	l.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}}
	l.spec.Process.NoNewPrivileges = true
	l.program("sleep 1000")
	l.start("one")
	for _, c := range []struct{ flags, want string }{
		{"", "CapInh:0 CapPrm:20 CapEff:20 CapBnd:20 CapAmb:0 NoNewPrivs:1"},
		{"--cap CAP_CHOWN", "CapInh:0 CapPrm:21 CapEff:21 CapBnd:21 CapAmb:0 NoNewPrivs:1"},
		{"--no-new-privs=false", "CapInh:0 CapPrm:20 CapEff:20 CapBnd:20 CapAmb:0 NoNewPrivs:0"},
	} {
		args := append(append([]string{"exec"}, strings.Fields(c.flags)...), "one", "grep", "-e", "^Cap", "-e", "NoNewPrivs", "/proc/self/status")
		var got []string
		for line := range strings.Lines(l.must(args...)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if value = strings.TrimLeft(strings.TrimSpace(value), "0"); value == "" {
				value = "0"
			}
			got = append(got, name+":"+value)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("exec %s: %s, want %s", c.flags, strings.Join(got, " "), c.want)
		}
	}
}

// TestMissingInterpreter: callers compare the whole of what is said about a program that the kernel refuses, while the log has more.
func TestMissingInterpreter(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	if err := os.WriteFile(filepath.Join(l.bundle, "rootfs/run.sh"), []byte("#!/none\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.start("one")
	log := filepath.Join(t.TempDir(), "log")
	const want = "exec /run.sh: no such file or directory\n"
	if _, errs, code := l.zap("--log", log, "exec", "one", "/run.sh"); errs != want || code != 255 {
		t.Errorf("exec: exit code %d, %q, want %q", code, errs, want)
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "exec in container one") {
		t.Errorf("log %q, %v", text, err)
	}
	l.spec.Process.Args = []string{"/run.sh"}
	l.spec.Linux.CgroupsPath += "-two"
	l.writeSpec()
	if _, errs, code := l.zap("run", "two"); errs != want || code != 1 {
		t.Errorf("run: exit code %d, %q, want %q", code, errs, want)
	}
}

// TestTerminalIntoPipe: where nobody shows the output on a terminal, lines end in a newline alone.
func TestTerminalIntoPipe(t *testing.T) {
	l := newOCILab(t)
	l.spec.Process.Terminal = true
	l.program("echo one; echo two")
	if out := l.must("run", "one"); out != "one\ntwo\n" {
		t.Errorf("output %q", out)
	}
}

// TestServiceManager is a service manager that passes a descriptor and wants to know when the container is ready.
func TestServiceManager(t *testing.T) {
	for _, way := range []string{"create", "run --detach", "run"} {
		t.Run(way, func(t *testing.T) { testServiceManager(t, way) })
	}
}

func testServiceManager(t *testing.T, way string) {
	l := newOCILab(t)
	l.program(`env | grep -e LISTEN -e NOTIFY | sort; cat <&3; sleep 1000`)
	host := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	passed, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "passed")
	w.Close()
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	// systemd's child becomes zap by execve, so that LISTEN_PID is zap's own pid: a shell does the same here.
	begin := func(args ...string) *exec.Cmd {
		cmd := l.command(args...)
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "NOTIFY_SOCKET="+host)
		cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{passed}, output, output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	cmd := begin(append(strings.Fields(way), "one")...)
	if way == "create" {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		cmd = begin("start", "one")
	}
	l.sayReady("one")
	var messages []string
	if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		buf, control := make([]byte, 1000), make([]byte, 100)
		n, controls, _, _, err := manager.ReadMsgUnix(buf, control)
		if err != nil {
			text, _ := os.ReadFile(output.Name())
			t.Fatalf("after %q: %v\n%s", messages, err, text)
		}
		messages = append(messages, strings.TrimSpace(string(buf[:n])))
		if controls > 0 { // the barrier: zap waits until it is closed
			rights, _ := unix.ParseSocketControlMessage(control[:controls])
			fds, _ := unix.ParseUnixRights(&rights[0])
			unix.Close(fds[0])
		}
	}
	main := fmt.Sprint(cmd.Process.Pid)
	if way != "run" {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		var state struct{ Pid int }
		if err := json.Unmarshal([]byte(l.must("state", "one")), &state); err != nil {
			t.Fatal(err)
		}
		main = fmt.Sprint(state.Pid)
	}
	if got, want := strings.Join(messages, " "), "READY=1 MAINPID="+main+" BARRIER=1"; got != want {
		t.Errorf("the service manager was told %q, want %q", got, want)
	}
	var text []byte
	for end := time.Now().Add(20 * time.Second); !strings.HasSuffix(string(text), "passed\n") && time.Now().Before(end); time.Sleep(time.Millisecond) {
		text, err = os.ReadFile(output.Name()) // the container may still be writing
	}
	if want := "LISTEN_FDS=1\nLISTEN_PID=1\nNOTIFY_SOCKET=/run/notify/notify.sock\npassed\n"; err != nil || string(text) != want {
		t.Errorf("the container has %q, %v, want %q", text, err, want)
	}
	if out := l.must("exec", "one", "sh", "-c", "env | grep -e LISTEN -e NOTIFY; ls /run/notify"); out != "notify.sock\n" {
		t.Errorf("another process has %q", out)
	}
	l.must("delete", "--force", "one")
	if way == "run" {
		_ = cmd.Wait()
	}
	if left, err := os.ReadDir(l.root); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// sayReady says on the container's notify socket, through the container's own mount of it, that the service is ready.
func (l *ociLab) sayReady(id string) {
	l.t.Helper()
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		out, _, _ := l.zap("state", id)
		var state struct {
			Pid    int
			Status string
		}
		if last = json.Unmarshal([]byte(out), &state); last != nil || state.Status != "running" {
			continue
		}
		name := fmt.Sprintf("/proc/%d/root/run/notify/notify.sock", state.Pid)
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if last = err; err == nil {
			_, err = conn.Write([]byte("STATUS=nearly\nREADY=1\n"))
			conn.Close()
			if err != nil {
				l.t.Fatal(err)
			}
			return
		}
	}
	l.t.Fatalf("no way to say that %s is ready: %v", id, last)
}

// TestFailedRunLeavesNothing: what was prepared for a service manager goes when the container can't be made.
func TestFailedRunLeavesNothing(t *testing.T) {
	l := newOCILab(t)
	l.program("true")
	l.spec.Process.Args = []string{"missing"}
	l.writeSpec()
	for _, verb := range []string{"create", "run"} {
		cmd := l.command(verb, "one")
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET=/none")
		if err := cmd.Run(); err == nil {
			t.Errorf("%s succeeded", verb)
		}
		if left, err := os.ReadDir(l.root); err != nil || len(left) > 0 {
			t.Errorf("%s left %v, %v", verb, left, err)
		}
	}
}

// TestCreatedEndsOnSignals sends a signal to a container that was created by other ways than `zap kill`.
func TestCreatedEndsOnSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		l := newOCILab(t)
		l.program("sleep 1000")
		pidFile := filepath.Join(t.TempDir(), "pid")
		if err := l.command("create", "--pid-file", pidFile, "one").Run(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
		var pid int
		if text, err := os.ReadFile(pidFile); err != nil {
			t.Fatal(err)
		} else if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); !strings.Contains(l.must("state", "one"), `"stopped"`); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("signal %d: %s", sig, l.must("state", "one"))
			}
		}
	}
}

// TestKillAllOfStopped: -a is obsolete and still sent, and does not mind a container that has ended.
func TestKillAllOfStopped(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	l.must("kill", "-a", "one", "9")
	for end := time.Now().Add(10 * time.Second); !strings.Contains(l.must("state", "one"), `"stopped"`) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	l.must("kill", "--all", "one", "KILL")
	if _, errs, code := l.zap("kill", "one", "KILL"); code != 1 || !strings.Contains(errs, "container not running") {
		t.Errorf("kill: exit code %d, %s", code, errs)
	}
	if _, errs, code := l.zap("exec", "one", "true"); code != 255 || !strings.Contains(errs, "container not running") {
		t.Errorf("exec: exit code %d, %s", code, errs)
	}
	if _, errs, code := l.zap("start", "one"); code != 1 || !strings.Contains(errs, "cannot start a container that has stopped") {
		t.Errorf("start: exit code %d, %s", code, errs)
	}
}

// TestDebugStages follows a start in the log, by the names that runc's log has for its stages.
func TestDebugStages(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	stages := func(want []string, args ...string) {
		t.Helper()
		for _, format := range []string{"text", "json"} {
			log := filepath.Join(t.TempDir(), "log")
			cmd := l.command(append([]string{"--debug", "--log", log, "--log-format", format}, args...)...)
			if err := cmd.Run(); err != nil {
				t.Fatalf("zap %v: %v", args, err)
			}
			text, err := os.ReadFile(log)
			rest := string(text)
			level := map[string]string{"text": "level=debug", "json": `"level":"debug"`}[format]
			for _, stage := range want {
				before, after, found := strings.Cut(rest, stage)
				if !found || !strings.Contains(before, level) {
					t.Errorf("zap %v: no %q in its place in the log, %v:\n%s", args, stage, err, text)
				}
				rest = after
			}
			if args[0] == "run" {
				l.must("delete", "--force", "one")
			}
		}
	}
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	stages([]string{"nsexec container setup", "child process in init()", "init: closing the pipe to signal completion"}, "run", "-d", "one")
	if err := l.command("run", "-d", "one").Run(); err != nil {
		t.Fatal(err)
	}
	process := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["true"],"env":["PATH=/bin"],"cwd":"/","execCPUAffinity":{"initial":"0"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	stages([]string{"nsexec container setup", "nsexec: affinity: 0x1", "child process in init()", "setns_init: about to exec"}, "exec", "-p", process, "one")
}

// TestRunPassesEverySignal sends signals at the moment at which the program says that it is there.
func TestRunPassesEverySignal(t *testing.T) {
	l := newOCILab(t)
	all := []int{1, 2, 3, 6, 10, 12, 14, 15, 16, 18, 24, 26, 28, 29, 30, 34, 37, 50, 64}
	traps := ""
	for _, sig := range all {
		traps += fmt.Sprintf("trap 'echo got %d' %[1]d; ", sig)
	}
	l.program(traps + "echo ready; while :; do sleep 0.01; done")
	for _, verb := range [][]string{{"run", "one"}, {"exec", "two", "sh", "-c", l.spec.Process.Args[2]}} {
		if verb[0] == "exec" {
			l.program("sleep 1000")
			l.start("two")
		}
		cmd := l.command(verb...)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		kill := time.AfterFunc(20*time.Second, func() { _ = l.command("delete", "--force", verb[1]).Run() }) // ends the output
		defer kill.Stop()
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("%v: %q", verb, lines.Text())
		}
		for _, sig := range all {
			if err := cmd.Process.Signal(unix.Signal(sig)); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]bool{}
		for len(got) < len(all) && lines.Scan() {
			got[lines.Text()] = true
		}
		for _, sig := range all {
			if !got[fmt.Sprint("got ", sig)] {
				t.Errorf("%v: signal %d did not arrive", verb, sig)
			}
		}
		_ = l.command("delete", "--force", verb[1]).Run()
		_ = cmd.Wait()
	}
}

// TestRunAdoptsOrphans: without a pid namespace nobody but zap run waits for what the container's processes leave behind.
func TestRunAdoptsOrphans(t *testing.T) {
	for flags, want := range map[string]string{"": "adopted", "--no-subreaper": "left"} {
		l := newOCILab(t)
		l.spec.Linux.Namespaces = slices.DeleteFunc(l.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
		// The second shell ends at once; the third one then looks for its parent, and whether the one that ended before it is still there.
		l.program(`zap=$PPID; (sh -c 'sleep 0.1' & true); (sh -c 'sleep 0.3; read a b c parent rest </proc/self/stat
			[ "$parent" = '$zap' ] && echo adopted || echo left; grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null |
			while read f; do grep -q "^PPid:.'$zap'$" $f && echo zombie; done' & true); sleep 1`)
		args := append([]string{"run"}, strings.Fields(flags)...)
		if out := l.must(append(args, "one")...); out != want+"\n" {
			t.Errorf("run %s: %q, want %q", flags, out, want)
		}
	}
}

// TestAmbientWarning: an ambient capability that the kernel would refuse is left out with a warning in runc's words, one for all.
func TestAmbientWarning(t *testing.T) {
	l := newOCILab(t)
	l.spec.Process.Capabilities.Inheritable = []string{"CAP_KILL"}
	l.spec.Process.Capabilities.Ambient = []string{"CAP_KILL", "CAP_CHOWN", "CAP_AUDIT_WRITE"}
	l.program("grep CapAmb /proc/self/status")
	out, errs, code := l.zap("run", "one")
	if code != 0 || out != "CapAmb:\t0000000000000020\n" || !strings.Contains(errs, "can't raise ambient capability CAP_CHOWN, CAP_AUDIT_WRITE: ") ||
		strings.Contains(errs, "CAP_KILL") || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
	}
}

// TestClocksOfUserNamespace moves the clocks of a container with a user namespace.
func TestClocksOfUserNamespace(t *testing.T) {
	l := newOCILab(t)
	l.spec.Linux.Namespaces = append(l.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
	maps := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	l.spec.Linux.UIDMappings, l.spec.Linux.GIDMappings = maps, maps
	l.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881, Nanosecs: 2718281}, "boottime": {Secs: 1337, Nanosecs: 3141519}}
	for dir := l.bundle; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"proc", "dev", "sys"} { // the container's root may not make them: the files are another user's
		if err := os.Mkdir(filepath.Join(l.bundle, "rootfs", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.program("cat /proc/self/timens_offsets")
	out := strings.Join(strings.Fields(l.must("run", "one")), " ")
	if want := "monotonic 7881 2718281 boottime 1337 3141519"; out != want {
		t.Errorf("offsets %q, want %q", out, want)
	}
}

// TestForceDeletesRemains removes what a creation leaves that was killed before it wrote a state, and nothing else.
func TestForceDeletesRemains(t *testing.T) {
	l := newOCILab(t)
	for name, gone := range map[string]bool{"lock": true, "start": true, ".state.json.123": true, "": true, "other": false, "state.json": false} {
		dir := filepath.Join(l.root, "one")
		if err := os.MkdirAll(filepath.Join(dir, "notify"), 0o755); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, errs, code := l.zap("delete", "--force", "one")
		if (code == 0) != (name != "state.json") {
			t.Errorf("%q: exit code %d, %s", name, code, errs)
		}
		if _, err := os.Stat(dir); os.IsNotExist(err) != gone {
			t.Errorf("%q: %v", name, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
