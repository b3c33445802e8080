package main

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
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

// asThief makes this test binary look for the host's files by way of the processes that are started beside it.
const asThief = "ZAP_TEST_AS_THIEF"

func init() {
	if mark := os.Getenv(asThief); mark != "" {
		steal(mark)
		os.Exit(0)
	}
}

// steal opens the executables of all processes that it meets and are no file of its own root, and says which can be written to. And it looks
// for the host's file mark below their roots.
func steal(mark string) {
	var own unix.Stat_t
	_ = unix.Stat("/", &own)
	fmt.Println("ready")
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		if _, err := os.Stat("/stop"); err == nil {
			break
		}
		dir, err := os.ReadDir("/proc")
		if err != nil {
			break
		}
		for _, e := range dir {
			p := "/proc/" + e.Name()
			if n := e.Name()[0]; n < '2' || n > '9' { // not this one, the first, nor those that began with it
				continue
			}
			if _, err := os.Stat(p + "/root" + mark); err == nil {
				fmt.Println("HOST ROOT")
			}
			fd, err := unix.Open(p+"/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Dev != own.Dev && st.Size > 1<<20 {
				tryToWrite(fd)
			}
			unix.Close(fd)
		}
	}
	fmt.Println("done")
}

// tryToWrite opens a file for writing by its descriptor, as soon as nobody executes it any more.
func tryToWrite(fd int) {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			fmt.Println("WRITABLE")
			unix.Close(w)
			return
		case unix.ETXTBSY:
		default:
			fmt.Println("kept from writing:", err)
			return
		}
	}
}

// thief is a container with CAP_SYS_PTRACE and no user namespace whose program steals, and a copy of zap to execute things in it with. Its root
// file system is a tmpfs, so that all other files are others'.
func (l *ociLab) thief() (zap string, end func() string) {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	image, err := elf.Open(self)
	if err != nil {
		l.t.Fatal(err)
	}
	defer image.Close()
	if slices.ContainsFunc(image.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		l.t.Skip("needs a static test binary: CGO_ENABLED=0 go test")
	}
	data, err := os.ReadFile(self)
	if err != nil {
		l.t.Fatal(err)
	}
	zap = filepath.Join(l.t.TempDir(), "zap")
	root := filepath.Join(l.bundle, "rootfs")
	tmp := l.t.TempDir()
	if err := unix.Mount("thief", tmp, "tmpfs", 0, ""); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = unix.Unmount(tmp, unix.MNT_DETACH) })
	if err := os.CopyFS(tmp, os.DirFS(root)); err != nil {
		l.t.Fatal(err)
	}
	for _, path := range []string{zap, filepath.Join(tmp, "bin/thief")} {
		if err := os.WriteFile(path, data, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	l.spec.Root.Path, l.spec.Root.Readonly = tmp, false
	l.spec.Process.Args = []string{"/bin/thief"}
	l.spec.Process.Env = []string{"PATH=/bin", asThief + "=" + zap}
	more := []string{"CAP_SYS_PTRACE"}
	c := l.spec.Process.Capabilities
	l.spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: append(c.Bounding, more...), Permitted: append(c.Permitted, more...), Effective: append(c.Effective, more...),
	}
	l.writeSpec()
	run := l.command("run", "thief")
	run.Stderr = os.Stderr
	pipe, err := run.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.zap("delete", "--force", "thief") })
	in := bufio.NewReader(pipe)
	if line, err := in.ReadString('\n'); line != "ready\n" {
		l.t.Fatalf("the thief says %q, %v", line, err)
	}
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(in)
		said <- string(text)
	}()
	return zap, func() string {
		if err := os.WriteFile(filepath.Join(tmp, "stop"), nil, 0o644); err != nil {
			l.t.Fatal(err)
		}
		text := <-said
		if err := run.Wait(); err != nil {
			l.t.Errorf("the thief: %v", err)
		}
		return text
	}
}

// TestShelter has a container that may trace everything it sees go for what `zap exec` starts in it: neither zap's own file nor the host's
// root file system may be had there, and other execs go on as ever.
func TestShelter(t *testing.T) {
	l := newOCILab(t)
	zap, end := l.thief()
	for i := range 60 {
		cmd := exec.Command(zap, "--root", l.root, "exec", "thief", "sh", "-c", "echo said; exit 7")
		cmd.Env = append(os.Environ(), asZap+"=1")
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 7 || string(out) != "said\n" {
			t.Fatalf("exec %d: %v, %s", i, err, out)
		}
	}
	said := end()
	t.Logf("%d executables opened", strings.Count(said, "kept from writing"))
	for _, bad := range []string{"WRITABLE", "HOST ROOT", "text file busy"} {
		if n := strings.Count(said, bad); n > 0 {
			t.Errorf("the thief has %d times: %s", n, bad)
		}
	}
	if !strings.HasSuffix(said, "done\n") {
		t.Errorf("the thief says %q", said)
	}
}

// TestExecNotesTracer gives one process CAP_SYS_PTRACE in a container that has not got it: from then on zap has to mind who looks.
func TestExecNotesTracer(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	if err := l.command("run", "--detach", "plain").Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.zap("delete", "--force", "plain") })
	for _, step := range []struct {
		args []string
		want bool
	}{
		{[]string{"exec", "plain", "true"}, false},
		{[]string{"exec", "--cap", "CAP_SYS_PTRACE", "plain", "true"}, true},
		{[]string{"exec", "plain", "true"}, true},
	} {
		if _, errs, code := l.zap(step.args...); code != 0 {
			t.Fatal(errs)
		}
		data, err := os.ReadFile(filepath.Join(l.root, "plain/state.json"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(data), `"tracer":true`); got != step.want {
			t.Errorf("after %q a tracer is noted: %v", step.args, got)
		}
	}
}
