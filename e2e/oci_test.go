package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// container is a container that an engine makes on alpha with the OCI verbs, without a supervisor.
type container struct {
	*trip
	t      *testing.T
	name   string
	bundle string
	stdio  [3]*os.File // nil: /dev/null
	flags  []string    // of zap create
}

// busyboxRootfs has busybox under the names of all its applets.
func busyboxRootfs(t *testing.T) string {
	return MakeRootfs(t, "busybox", func(r *Rootfs) error { return r.busybox() })
}

// newContainer writes a bundle: what `zap spec` writes, with the program and the changes of the test, and a copy of rootfs.
func (tr *trip) newContainer(t *testing.T, name, rootfs string, args []string, change func(*specs.Spec)) *container {
	t.Helper()
	c := &container{trip: tr, t: t, name: tr.PodName(name), bundle: tr.Path("bundles", name)}
	if err := os.MkdirAll(c.bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	tr.run("cp", "-a", rootfs, filepath.Join(c.bundle, "rootfs"))
	s := spec.Default()
	s.Process.Args, s.Process.Terminal = args, false
	if change != nil {
		change(s)
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.bundle, "config.json"), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start creates and starts the container with its standard streams.
func (c *container) start() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	args := append(append([]string{"create", "--bundle", c.bundle}, c.flags...), c.name)
	cmd := c.alpha.Command(ctx, Binary(c.t), c.alpha.zapArgs(args...)...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer null.Close()
	files := c.stdio
	for i := range files {
		if files[i] == nil { // execute would take a pipe in its place, and wait for the container
			files[i] = null
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if r := execute(ctx, cmd); r.Err != nil {
		c.t.Fatalf("zap %s: %v", strings.Join(args, " "), r)
	}
	c.alpha.Zap(c.t, "start", c.name)
}

// exec runs a shell command in the container.
func (c *container) exec(h *Host, command string) string {
	c.t.Helper()
	return strings.TrimSpace(h.Zap(c.t, "exec", c.name, "sh", "-c", command))
}

// shape is what of a container must not change: its mounts, its first process, its rights, the files in / and /dev.
const shape = `sort /proc/1/mounts; cut -d' ' -f1,2,4-8 /proc/1/stat; hostname; grep -e Cap -e NoNew -e Seccomp /proc/1/status
	stat -c '%n %f %u %g %t %T %h' /* /dev/* | grep -v -e ^/proc -e ^/sys; stat -c '%n %y' /etc/passwd /dev /dev/null`

// move moves the container from one host to another, where it is a pod.
func (c *container) move(from, to *Host) Event {
	c.t.Helper()
	before := c.exec(from, shape)
	final := from.Migrate(c.t, c.name, to)
	if changed := Diff(strings.Split(before, "\n"), strings.Split(c.exec(to, shape), "\n")); len(changed) > 0 {
		c.t.Errorf("the container on %s is not as it was:\n%s", to.Name, strings.Join(changed, "\n"))
	}
	if r := from.TryZap(c.t, "state", c.name); r.Err == nil || !strings.Contains(r.Stderr, "does not exist") {
		c.t.Errorf("zap state on %s: %v", from.Name, r)
	}
	c.wantNothingLeft(c.t, from)
	return final
}

// wantNeverOn wants nothing of the container on a host while it is on alpha, where its cgroup has its name.
func (c *container) wantNeverOn(h *Host) {
	c.t.Helper()
	h.WantSame(c.t, c.before[h], append([]string{"/" + c.name}, caches...)...)
}

// state is what zap state says.
func (c *container) state(h *Host) (s struct {
	Status string
	Pid    int
},
) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(h.Zap(c.t, "state", c.name)), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// end ends the container by the OCI verbs.
func (c *container) end(h *Host) {
	c.t.Helper()
	if s := c.state(h).Status; s != "running" {
		c.t.Errorf("the container is %q on %s, not running", s, h.Name)
	}
	h.Zap(c.t, "kill", c.name, "KILL")
	WaitFor(c.t, 10*time.Second, "the container to stop", func() bool { return c.state(h).Status == "stopped" })
	h.Zap(c.t, "delete", c.name)
	c.wantNothingLeft(c.t, h)
}

// logs is the container's log on a host that it has moved to.
func (c *container) logs(h *Host) string {
	c.t.Helper()
	r := h.TryZap(c.t, "pod", "logs", c.name)
	return r.Stdout + r.Stderr
}

// want runs shell commands in the container and compares what they print.
func (c *container) want(h *Host, answers map[string]string) {
	c.t.Helper()
	for command, want := range answers {
		if got := c.exec(h, command); got != want {
			c.t.Errorf("in the container on %s, %s says %q, not %q", h.Name, command, got, want)
		}
	}
}

// counting is a program that writes numbered lines, with a child that sleeps.
// The first process has another standard input by the time of the move than the child, which has the original.
const counting = `sleep 7777 <&0 & echo $! > /dev/shm/sleeper; exec </etc/passwd; i=0; while i=$((i+1)); do echo line $i; echo $i > /dev/shm/count; sleep 0.02; done`

// TestContainer moves a container of the default specification, whose output is a file of the host, to beta and back.
func TestContainer(t *testing.T) {
	tr := newTrip(t)
	c := tr.newContainer(t, "count", busyboxRootfs(t), []string{"sh", "-c", counting}, nil)
	out, err := os.Create(tr.Path("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.stdio[1], c.stdio[2] = out, out
	c.start()
	said := func() string { data, _ := os.ReadFile(out.Name()); return string(data) }
	WaitFor(t, 10*time.Second, "ten lines", func() bool { return strings.Contains(said(), "line 10\n") })
	sleeper := c.exec(tr.alpha, "cat /dev/shm/sleeper")

	for _, hop := range [][2]*Host{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		there := hop[1]
		c.move(hop[0], there)
		first := len(c.logs(there))
		WaitFor(t, 10*time.Second, "more lines", func() bool { return len(c.logs(there)) > first+200 })
		wantLines(t, "the file and then the log", said()+c.logs(there))
		c.want(there, map[string]string{
			"tr '\\0' ' ' < /proc/" + sleeper + "/cmdline":                                  "sleep 7777",
			"[ $(readlink /proc/self/ns/time) = $(readlink /proc/1/ns/time) ] && echo same": "same",
			"readlink /proc/1/fd/0; readlink /proc/" + sleeper + "/fd/0":                    "/etc/passwd\n/dev/null",
			// It sees its own cgroup, of this host, and can't change it.
			"cd /sys/fs/cgroup; cat pids/cgroup.procs cgroup.procs 2>/dev/null | grep -x 1":                                                         "1",
			"cd /sys/fs/cgroup; touch pids/tasks cgroup.procs /x 2>&1 | grep -c -e Read-only -e such":                                               "3",
			"cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l; touch /proc/sys/kernel/hostname || echo no": "0\n0\nno",
			"a=$(cat /dev/shm/count); sleep 0.5; [ $a -lt $(cat /dev/shm/count) ] && echo more":                                                     "more",
		})
	}
	c.end(tr.alpha)
}

// TestContainerPipes moves a container that an engine talks to by pipes, under a name as engines make them, with a root file
// system that it writes to.
func TestContainerPipes(t *testing.T) {
	tr := newTrip(t)
	script := `touch /run/made; mkdir /data; while read word; do echo got $word | tee -a /data/words; done; echo over >&2; sleep 7777`
	c := tr.newContainer(t, "pipes", busyboxRootfs(t), []string{"sh", "-c", script}, func(s *specs.Spec) {
		s.Root.Readonly = false
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	})
	c.name = strings.Repeat("0123456789abcdef", 3) + "0123456789-" + tr.ID // 65 letters
	var ends [3]*os.File
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if c.stdio[i], ends[i] = r, w; i > 0 {
			c.stdio[i], ends[i] = w, r
		}
	}
	c.start()
	for _, f := range c.stdio {
		f.Close()
	}
	fmt.Fprintln(ends[0], "first")
	ty := &typist{t: t}
	ty.sit(ends[0], ends[1])
	ty.do("second\n", "got second\n")

	c.move(tr.alpha, tr.beta)
	ty.sit(attach(t, tr.beta, c.name))
	ty.do("third\n", "got third\n")
	c.want(tr.beta, map[string]string{
		"cat /data/words":                      "got first\ngot second\ngot third",
		"ls /run":                              "made",
		"grep -v ':/$' /proc/1/cgroup; echo .": ".", // its cgroup namespace begins at its own group
	})
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	last := tr.beta.Command(ctx, Binary(t), tr.beta.zapArgs("pod", "attach", c.name)...)
	last.Stdin = strings.NewReader("fourth\n") // and its end
	if err := processes.start(last); err != nil {
		t.Fatal(err)
	}
	defer processes.wait(last)
	WaitFor(t, 10*time.Second, "the end of the input", func() bool { return strings.Contains(c.logs(tr.beta), "over\n") })
	if got, want := c.logs(tr.beta), "got third\ngot fourth\nover\n"; got != want {
		t.Errorf("the log on beta is %q, not %q", got, want)
	}
	c.end(tr.beta)
	if _, err := os.Stat(filepath.Join(c.bundle, "rootfs/data/words")); err != nil {
		t.Errorf("the engine's root file system is not as it was left: %v", err)
	}
}

// TestContainerTerminal moves a container whose terminal some process of the host holds, which got it over a socket.
func TestContainerTerminal(t *testing.T) {
	tr := newTrip(t)
	c := tr.newContainer(t, "bash", ShellRootfs(t), []string{"/bin/bash", "--norc", "-i"}, func(s *specs.Spec) {
		s.Process.Terminal, s.Root.Readonly = true, false
		s.Process.ConsoleSize = &specs.Box{Height: 40, Width: 100}
		s.Process.Env = append(s.Process.Env, "TERM=xterm", "PS1=ready$ ", "HOME=/root")
	})
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: tr.Path("console"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	masters := make(chan *os.File, 1)
	go func() { masters <- receiveFile(t, socket) }()
	c.flags = []string{"--console-socket", tr.Path("console")}
	c.start()
	master := <-masters
	if master == nil {
		t.Fatal("no terminal came over the socket")
	}
	defer master.Close()
	ty := &typist{t: t}
	ty.sit(master, master)
	ty.do("\r", "ready$")
	useShell(ty, func() {
		tr.alpha.Migrate(t, c.name, tr.beta)
		ty.sit(attach(t, tr.beta, c.name))
	})
	ty.do("stty size\r", "40 100")
	tr.wantNothingLeft(t, tr.alpha)
	c.end(tr.beta)
}

// receiveFile takes one descriptor from whoever connects.
func receiveFile(t *testing.T, socket *net.UnixListener) *os.File {
	socket.SetDeadline(time.Now().Add(30 * time.Second))
	conn, err := socket.AcceptUnix()
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	name, rights := make([]byte, 4096), make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		t.Error(err)
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		t.Errorf("%d messages, %v", len(messages), err)
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("descriptors %v, %v", fds, err)
		return nil
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "master")
}

// engineNetwork makes a network namespace as an engine does: named, with a veth pair into the host's bridge.
func (tr *trip) engineNetwork(t *testing.T, h *Host, number byte) (NetNS, Pod) {
	t.Helper()
	n := tr.newNetNS("engine")
	p := Pod{Number: number}
	for _, args := range []string{
		"link add veth0 type veth peer name net0 netns " + string(n),
		"link set veth0 master " + Bridge + " up",
		"-n " + string(n) + " link set net0 address 02:00:00:00:00:" + fmt.Sprintf("%02x", number) + " mtu 1400 up",
		"-n " + string(n) + " addr add " + strings.TrimSuffix(p.Addr(0), ":0") + "/24 dev net0",
		"-n " + string(n) + " addr add " + strings.Trim(strings.TrimSuffix(p.Addr6(0), ":0"), "[]") + "/64 dev net0 nodad",
		"-n " + string(n) + " route add default via 10.88.0.254",
		"-n " + string(n) + " route add 192.0.2.0/24 via 10.88.0.253 metric 7",
	} {
		if r := h.Try("ip", strings.Fields(args)...); r.Err != nil {
			t.Fatalf("ip %s: %v", args, r)
		}
	}
	tr.before[h] = h.Inventory(t)
	return n, p
}

// identity is a network namespace's link, addresses and routes, without what a host gives them.
func identity(t *testing.T, h *Host, file string) string {
	t.Helper()
	r := h.Try("nsenter", "--net="+file, "sh", "-c", `ip -br link show dev net0 | sed 's/@[^ ]*//'
		ip -o link show dev net0 | grep -o 'mtu [0-9]*'; ip -br addr show dev net0 | sed 's/@[^ ]*//'
		(ip route; ip -6 route) | sed 's/ proto [a-z]*//'; cat /proc/sys/net/ipv4/ip_unprivileged_port_start`)
	if r.Err != nil {
		t.Fatal(r)
	}
	return r.Stdout
}

// redisContainer is a redis in an engine's namespace.
func (tr *trip) redisContainer(t *testing.T, engine NetNS) *container {
	return tr.newContainer(t, "redis", RedisRootfs(t), RedisArgs(), func(s *specs.Spec) { joinNetwork(s, engine.Path()) })
}

// joinNetwork puts a container into the network namespace at path; the host's own without a path.
func joinNetwork(s *specs.Spec, path string) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if path != "" {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
	}
}

// TestContainerNetwork moves a redis in a network namespace that was given to it by its path, to beta and back to alpha, while a
// client counts.
func TestContainerNetwork(t *testing.T) {
	tr := newTrip(t)
	engine, p := tr.engineNetwork(t, tr.alpha, 60)
	engine.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("80"), 0) })
	c := tr.redisContainer(t, engine)
	c.start()
	counter := NewCounter(t, tr.client, p.Addr(6379), "n", time.Millisecond)
	counter6 := NewCounter(t, tr.client, p.Addr6(6379), "n6", 5*time.Millisecond)
	counter.WantProgress(t)
	want := identity(t, tr.alpha, engine.Path())

	for _, hop := range [][2]*Host{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		final := hop[0].Migrate(t, c.name, hop[1])
		counter.WantProgress(t)
		counter6.WantProgress(t)
		tr.wantNothingLeft(t, hop[0])
		if got := identity(t, hop[1], fmt.Sprintf("/proc/%d/ns/net", c.state(hop[1]).Pid)); got != want {
			t.Errorf("the network on %s is\n%s\nit was\n%s", hop[1].Name, got, want)
		}
		if final.HeldFrames == 0 {
			t.Error("no frame was held, although a client was sending all the time")
		}
		t.Logf("%s to %s: pause %.1f ms, %d frames held", hop[0].Name, hop[1].Name, final.PauseMS, final.HeldFrames)
		if hop[1] == tr.beta {
			wantSilent(t, tr, engine, p)
			counter.WantProgress(t)
		}
	}
	for _, n := range []*Counter{counter, counter6} {
		if r := n.Stop(); r.Err != nil {
			t.Errorf("after %d replies: %v", r.Count, r.Err)
		}
	}
	c.end(tr.alpha)
	// The engine may use its namespace for something else.
	if r := tr.alpha.Try("nsenter", "--net="+engine.Path(), "nft", "delete", "table", "netdev", "zap-lock"); r.Err != nil {
		t.Error(r)
	}
	if !answers(tr, p) {
		t.Error("the engine's namespace does not answer without the lock")
	}
}

// answers says whether somebody on alpha answers for the pod's address: the cable is cut, and what the bridge has learned forgotten.
func answers(tr *trip, p Pod) bool {
	tr.CutLink(tr.alpha)
	defer tr.RestoreLink(tr.alpha)
	tr.alpha.Try("ip", "link", "set", "up0", "nomaster")
	defer tr.alpha.Try("ip", "link", "set", "up0", "master", Bridge)
	tr.alpha.Try("ip", "neigh", "flush", "dev", Bridge)
	return tr.alpha.Try("busybox", "ping", "-c", "1", "-W", "1", strings.TrimSuffix(p.Addr(0), ":0")).Err == nil
}

// wantSilent wants the namespace that the engine keeps on alpha to have no process and not to answer for its address.
func wantSilent(t *testing.T, tr *trip, engine NetNS, p Pod) {
	t.Helper()
	if answers(tr, p) {
		t.Error("the address still answers on the host that the container has left")
	}
	ino, err := engine.Inode()
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range mustDescendants(t) {
		if proc.NetNS == ino || slices.Contains(heldNetNS(proc.Pid), ino) {
			t.Errorf("process %v still has the engine's network namespace", proc)
		}
	}
}

// TestContainerUnfit wants everything that keeps a container of an engine from moving to be said before anything is frozen.
func TestContainerUnfit(t *testing.T) {
	tr := newTrip(t)
	engine, _ := tr.engineNetwork(t, tr.alpha, 61)
	for _, args := range [][]string{
		{"-n", string(engine), "link", "add", "extra0", "type", "veth", "peer", "name", "extra1"},
		{"-n", string(engine), "link", "set", "extra0", "up"},
	} {
		if r := tr.alpha.Try("ip", args...); r.Err != nil {
			t.Fatal(r)
		}
	}
	background(t, engine, "sleep", "7778")
	c := tr.newContainer(t, "unfit", busyboxRootfs(t), []string{"sleep", "7777"}, func(s *specs.Spec) { joinNetwork(s, engine.Path()) })
	in, err := os.Open("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	c.stdio[0] = in
	c.start()
	session := background(t, tr.alpha.NetNS, Binary(t), "--root", tr.alpha.Root, "exec", c.name, "sleep", "7779")
	WaitFor(t, 10*time.Second, "the session", func() bool { return strings.Contains(c.exec(tr.alpha, "cat /proc/*/cmdline"), "7779") })
	if err := os.Mkdir(filepath.Join(tr.beta.Root, c.name), 0o700); err != nil { // the name is taken there
		t.Fatal(err)
	}
	check := []string{"migrate", "--tls", tr.alpha.TLS, "--check", c.name, tr.beta.Peer()}
	r := tr.alpha.TryZap(t, check...)
	for _, want := range []string{
		"link extra", "is a second one beside", "(sleep), which is not of it, is in its network namespace", "session ", "descriptor 0, /proc/version",
		"name " + c.name + ": ",
	} {
		if r.Code != 3 || !strings.Contains(r.Stderr, want) {
			t.Errorf("the check ends with code %d and does not say %q: %s", r.Code, want, r.Stderr)
		}
	}
	unix.Kill(session, unix.SIGKILL)

	freezer := filepath.Join(cgroupRoots()["freezer"], c.name, "freezer.state")
	state, thaw := "FROZEN", "THAWED"
	if cgroupRoots()["freezer"] == "" {
		freezer, state, thaw = filepath.Join(cgroupRoots()[""], c.name, "cgroup.freeze"), "1", "0"
	}
	if err := os.WriteFile(freezer, []byte(state), 0); err != nil {
		t.Fatal(err)
	}
	if r := tr.alpha.TryZap(t, check...); r.Err == nil || !strings.Contains(r.Stderr, "is paused: only a running") {
		t.Errorf("with the container paused: %v", r)
	}
	if err := os.WriteFile(freezer, []byte(thaw), 0); err != nil {
		t.Fatal(err)
	}
	tr.alpha.Zap(t, "delete", "--force", c.name)
}

// TestContainerHostNetwork wants a container without a network namespace of its own to be refused with the reason.
func TestContainerHostNetwork(t *testing.T) {
	tr := newTrip(t)
	c := tr.newContainer(t, "host", busyboxRootfs(t), []string{"sleep", "7777"}, func(s *specs.Spec) { joinNetwork(s, "") })
	c.start()
	m := tr.alpha.StartMove(t, c.name, tr.beta, MoveOptions{})
	if r := m.Wait(); r.Code != 3 || !strings.Contains(r.Stderr, "it uses the host's network") {
		t.Errorf("the move of a container on the host's network: %v", r)
	}
	c.wantNeverOn(tr.beta)
	tr.alpha.Zap(t, "delete", "--force", c.name)
	tr.wantNothingLeft(t, tr.alpha)
}

// TestContainerVolumes moves a container with directories and files of the host in it, which beta has too, and does not when beta
// lacks them.
func TestContainerVolumes(t *testing.T) {
	tr := newTrip(t)
	shared, deep, onAlpha := tr.Path("shared"), tr.Path("shared", "deep"), tr.Path("only", "alpha")
	for _, dir := range []string{deep, onAlpha} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hosts := filepath.Join(shared, "hosts")
	if err := os.WriteFile(hosts, []byte("192.0.2.1 here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("below", deep, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	tr.beta.servers[0].Stop() // from now on, beta does not see what is only on alpha
	tr.beta.Wrap = []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none "$0" && exec "$@"`, tr.Path("only")}
	tr.beta.Serve(t)
	tr.before[tr.alpha], tr.before[tr.beta] = tr.alpha.Inventory(t), tr.beta.Inventory(t)
	bind := func(source, target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Source: source, Type: "bind", Options: options}
	}

	c := tr.newContainer(t, "lacking", busyboxRootfs(t), []string{"sleep", "7777"}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, bind(onAlpha, "/alpha", "bind"), bind(hosts, "/etc/hosts", "rbind"))
	})
	c.start()
	r := tr.alpha.TryZap(t, "migrate", "--tls", tr.alpha.TLS, "--check", c.name, tr.beta.Peer())
	if r.Code != 3 || !strings.Contains(r.Stderr, "mount "+onAlpha+": mounted on /alpha in the pod, missing on the target") || strings.Contains(r.Stderr, hosts) {
		t.Errorf("the check of a container whose volume beta lacks: %v", r)
	}
	tr.alpha.Zap(t, "delete", "--force", c.name)

	script := `exec >> /data/out; i=0; while i=$((i+1)); do echo line $i; sleep 0.02; done`
	c = tr.newContainer(t, "volumes", busyboxRootfs(t), []string{"sh", "-c", script}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, bind(shared, "/data", "rbind", "nosuid"), bind(hosts, "/etc/hosts", "bind", "ro", "rprivate"))
	})
	c.start()
	said := func() string { data, _ := os.ReadFile(filepath.Join(shared, "out")); return string(data) }
	WaitFor(t, 10*time.Second, "ten lines", func() bool { return strings.Contains(said(), "line 10\n") })
	c.exec(tr.alpha, "echo from alpha > /data/deep/note")
	c.move(tr.alpha, tr.beta)
	first := len(said())
	WaitFor(t, 10*time.Second, "more lines", func() bool { return len(said()) > first+200 })
	wantLines(t, "the volume", said())
	c.want(tr.beta, map[string]string{
		"cat /data/deep/note; cat /etc/hosts; echo more >> /etc/hosts || echo no": "from alpha\n192.0.2.1 here\nno",
	})
	c.exec(tr.beta, "echo from beta > /data/deep/note")
	if data, err := os.ReadFile(filepath.Join(deep, "note")); string(data) != "from beta\n" {
		t.Errorf("the host sees %q in the volume (%v)", data, err)
	}
	c.end(tr.beta)
}

// TestContainerAborted lets the move of a container with an engine's network fail, by the death of zap migrate, when all is frozen.
// The container goes on where it is, and moves at a second try.
func TestContainerAborted(t *testing.T) {
	tr := newTrip(t)
	engine, p := tr.engineNetwork(t, tr.alpha, 62)
	c := tr.redisContainer(t, engine)
	c.start()
	counter := NewCounter(t, tr.client, p.Addr(6379), "n", time.Millisecond)
	counter.WantProgress(t)
	m := tr.alpha.StartMove(t, c.name, tr.beta, MoveOptions{Env: []string{"ZAP_STOP_AT=source:Sent"}})
	WaitFor(t, 30*time.Second, "the move to stop", func() bool { return stoppedZap() != nil || m.Ended() })
	if err := unix.Kill(m.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.Wait()
	counter.WantProgress(t)
	c.wantNeverOn(tr.beta)
	if s := c.state(tr.alpha).Status; s != "running" {
		t.Errorf("the container is %q on alpha, not running", s)
	}
	tr.alpha.Migrate(t, c.name, tr.beta)
	counter.WantProgress(t)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
	tr.wantNothingLeft(t, tr.alpha)
	c.end(tr.beta)
}
