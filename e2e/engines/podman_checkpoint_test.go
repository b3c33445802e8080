package engines

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu"
)

// counting counts in a file and in its log.
const counting = `i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.05; done`

// count is how far a container of counting has come.
func (e *engine) count(name string) int {
	e.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(e.try("exec", name, "cat", "/count").Stdout))
	if err != nil {
		return -1 // it writes right now
	}
	return n
}

// wantOn wants a container to go on where it was.
func (e *engine) wantOn(name string, before int) {
	e.t.Helper()
	e.want("running", "inspect", "--format", "{{.State.Status}}", name)
	waitFor(e.t, name+" to count on", func() bool { return e.count(name) > before })
	e.want("kept", "exec", name, "cat", "/scratch/file")
	e.want("1", "exec", name, "sh", "-c", "ps | grep -c 'sleep 777[7]'")
}

// TestPodmanCheckpoint saves a container and restores it where it was, from an archive under another name, and beside the container that
// has gone on.
func TestPodmanCheckpoint(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "saved", "-v", t.TempDir()+":/data", "--tmpfs", "/scratch", "--memory", "64m", image, "sh", "-c", counting)
	e.do("exec", "saved", "sh", "-c", "echo kept > /scratch/file; echo written > /data/file; echo layer > /etc/layer")
	e.do("exec", "-d", "saved", "sh", "-c", "sleep 7777 & exec sleep 0.1")
	waitFor(t, "some numbers", func() bool { return e.count("saved") > 5 })

	e.do("container", "checkpoint", "saved")
	e.want("exited", "inspect", "--format", "{{.State.Status}}", "saved")
	e.do("container", "restore", "saved")
	e.wantOn("saved", 5)
	before := e.count("saved")
	e.do("container", "checkpoint", "--leave-running", "--print-stats", "saved")
	e.wantOn("saved", before)

	archive := filepath.Join(t.TempDir(), "saved.tar.gz")
	before = e.count("saved")
	e.do("container", "checkpoint", "--export", archive, "--compress", "gzip", "--keep", "saved")
	e.do("rm", "saved")
	e.do("container", "restore", "--import", archive, "--name", "again", "--keep")
	e.wantOn("again", before)
	e.want("layer", "exec", "again", "cat", "/etc/layer")
	e.want("67108864", "exec", "again", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max")
	if logs := e.do("logs", "--tail", "1", "again"); logs == "" {
		t.Error("a restored container writes no log")
	}
	e.do("stop", "-t", "0", "again")
	e.want("137", "wait", "again")
	e.do("rm", "again")
}

// TestPodmanCheckpointKeepsRuntime imports a checkpoint without naming a runtime: the archive says which one it was.
func TestPodmanCheckpointKeepsRuntime(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "saved", "--tmpfs", "/scratch", image, "sh", "-c", counting)
	waitFor(t, "some numbers", func() bool { return e.count("saved") > 1 })
	archive := filepath.Join(t.TempDir(), "saved.tar.gz")
	e.do("container", "checkpoint", "--export", archive, "--compress", "gzip", "saved")
	e.do("rm", "saved")
	must(t, "podman", "container", "restore", "--import", archive)
	e.want(runtimeName+" running", "inspect", "--format", "{{.OCIRuntime}} {{.State.Status}}", "saved")
}

// TestPodmanCheckpointTCP keeps a connection to a container that is saved and restored.
func TestPodmanCheckpointTCP(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "server", image, "nc", "-l", "-p", "4000", "-e", "cat")
	address := e.do("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server") + ":4000"
	var conn net.Conn
	waitFor(t, "a connection", func() (ok bool) {
		c, err := net.DialTimeout("tcp", address, time.Second)
		conn = c
		return err == nil
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(50 * time.Second))
	in := bufio.NewReader(conn)
	say := func(word string) {
		t.Helper()
		fmt.Fprintln(conn, word)
		if got, err := in.ReadString('\n'); err != nil || got != word+"\n" {
			t.Fatalf("%q was answered %q, %v", word, got, err)
		}
	}
	say("before")
	if r := e.try("container", "checkpoint", "server"); r.Code == 0 {
		t.Errorf("a container with a connection was saved without --tcp-established: %v", r)
	}
	say("after a failure")
	e.do("container", "checkpoint", "--leave-running", "--tcp-established", "server")
	say("left running")
	e.do("container", "checkpoint", "--tcp-established", "server")
	e.do("container", "restore", "--tcp-established", "server")
	say("restored")
	conn.Close()
	e.want("0", "wait", "server")
}

// TestPodmanPreCheckpoint saves memory ahead, where the kernel can note what changes in it.
func TestPodmanPreCheckpoint(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "saved", "--tmpfs", "/scratch", image, "sh", "-c", counting)
	e.do("exec", "saved", "sh", "-c", "echo kept > /scratch/file; sleep 7777 &")
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.tar.gz"), filepath.Join(dir, "second.tar.gz")
	r := e.try("container", "checkpoint", "--pre-checkpoint", "--export", first, "saved")
	if r.Code != 0 {
		if !strings.Contains(r.Stderr, "memory tracking") {
			t.Errorf("the error says not what is missing: %v", r)
		}
		e.wantOn("saved", 0)
		t.Skip("the kernel does not track memory: ", strings.TrimSpace(r.Stderr))
	}
	e.wantOn("saved", 0)
	e.do("container", "checkpoint", "--with-previous", "--export", second, "saved")
	e.do("rm", "saved")
	e.do("container", "restore", "--import-previous", first, "--import", second)
	e.wantOn("saved", 0)
}

// TestPodmanCheckpointTerminal restores a shell with its terminal.
func TestPodmanCheckpointTerminal(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-dit", "--name", "shell", "-e", "PS1=here$ ", image, "sh")
	e.do("container", "checkpoint", "shell")
	e.do("container", "restore", "shell")
	s := newScreen(t, "podman", "--runtime", runtimeName, "attach", "shell")
	s.do("\r", "here$")
	s.useShell()
	s.do("exit 8\r", "")
	s.wantEnd(0)
	e.want("8", "wait", "shell")
}

// TestPodmanCheckpointPod restores a container into a pod, whose namespaces it shares with others.
func TestPodmanCheckpointPod(t *testing.T) {
	e := newPodman(t)
	pod := e.do("pod", "create", "--name", "home", "--share", "net,ipc,uts") // podman 4.3 restores into pods by id only
	e.do("run", "-d", "--pod", "home", "--name", "mate", image, "sh", "-c", "while :; do echo served | nc -l -p 4000; done")
	e.do("run", "-d", "--pod", "home", "--name", "saved", "--tmpfs", "/scratch", image, "sh", "-c", counting)
	e.do("exec", "saved", "sh", "-c", "echo kept > /scratch/file")
	e.do("exec", "-d", "saved", "sh", "-c", "sleep 7777 & exec sleep 0.1")
	waitFor(t, "what was started", func() bool { return e.try("exec", "saved", "sh", "-c", "ps | grep 'sleep 777[7]'").Code == 0 })
	archive := filepath.Join(t.TempDir(), "saved.tar.gz")
	e.do("container", "checkpoint", "--export", archive, "--compress", "gzip", "saved")
	before := 0
	e.do("rm", "saved")
	e.do("container", "restore", "--import", archive, "--pod", pod)
	e.wantOn("saved", before)
	for _, ns := range []string{"net", "ipc", "uts"} {
		e.want(e.do("exec", "mate", "readlink", "/proc/self/ns/"+ns), "exec", "saved", "readlink", "/proc/1/ns/"+ns)
	}
	if got := e.do("exec", "saved", "nc", "-w", "2", "127.0.0.1", "4000"); got != "served" {
		t.Errorf("the pod's other container says %q", got)
	}
}

// TestPodmanCheckpointKinds saves and restores containers with namespaces of other kinds, under podman's seccomp profile.
func TestPodmanCheckpointKinds(t *testing.T) {
	e := newPodman(t)
	users := []string{"--uidmap", "0:200000:5000", "--network", "none"}
	if criu.LacksLimits() { // then CRIU has a filter of zap's, and can't save another
		users = append(users, "--security-opt", "seccomp=unconfined")
	}
	for name, flags := range map[string][]string{
		"users":     users,
		"outside":   {"--network", "host", "--ipc", "host", "--uts", "host"},
		"read-only": {"--read-only", "--read-only-tmpfs", "--cgroupns", "private"},
	} {
		e.do(append(append([]string{"run", "-d", "--name", name, "--tmpfs", "/scratch"}, flags...), image, "sh", "-c", "sleep 7777")...)
		const shape = "cat /proc/self/uid_map; grep -E 'Seccomp|Cap|NoNew' /proc/1/status; sort /proc/1/mounts | grep -v ^overlay; touch /x 2>&1"
		before := e.try("exec", name, "sh", "-c", shape).Stdout
		e.do("container", "checkpoint", name)
		leaveHostMemory(t)
		e.do("container", "restore", name)
		e.want("running", "inspect", "--format", "{{.State.Status}}", name)
		if after := e.try("exec", name, "sh", "-c", shape).Stdout; after != before {
			t.Errorf("%s is\n%sit was\n%s", name, after, before)
		}
	}
}

// leaveHostMemory undoes what podman does with --ipc host: it keeps all of the host's /dev/shm beside a checkpoint, its own locks in it as they
// are held at that moment, and a restore unpacks them over those that are in use. After that every podman waits for a lock that
// nobody holds, whatever the runtime is.
func leaveHostMemory(t *testing.T) {
	t.Helper()
	all, err := filepath.Glob("/var/lib/containers/storage/overlay-containers/*/userdata/devshm-checkpoint.tar")
	if err != nil || len(all) == 0 {
		t.Errorf("podman keeps no /dev/shm: %v", err)
	}
	for _, path := range all {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}
