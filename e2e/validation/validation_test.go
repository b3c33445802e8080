package validation

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/e2e/cell"
)

// programTimeout bounds a program. Most take less than a second.
const programTimeout = 60 * time.Second

// Why a program does not pass, with any runtime unless it says so.
const (
	noWeights      = "the kernel has no blkio.leaf_weight (CFQ is gone since Linux 5.0)"
	noHugetlb      = "hugetlb is not a hierarchy of version 1 here"
	noNetwork      = "net_cls and net_prio are not hierarchies of version 1 here, or there is no link but lo"
	noKernelMemory = "the kernel has no limits on its own memory since Linux 5.16"
	noResource     = "this machine's root lacks CAP_SYS_RESOURCE, which the program wants to see given"
)

// failing is the programs that don't pass, and why.
var failing = map[string]string{
	"delete":                         "wants delete to refuse a created container; containerd deletes them so, and runc and crun do it",
	"hooks":                          "compares with an output that its own hooks never write",
	"linux_cgroups_blkio":            noWeights,
	"linux_cgroups_relative_blkio":   noWeights,
	"linux_cgroups_memory":           noKernelMemory,
	"linux_cgroups_relative_memory":  noKernelMemory,
	"linux_mount_label":              "needs SELinux: without it zap, as runc, refuses a label; crun says nothing",
	"linux_process_apparmor_profile": "needs AppArmor and a profile of that name",
	"misc_props":                     "starts a program that it has not put into the bundle",
	"poststart_fail":                 "wants the container to live on; since version 1.2 the specification wants it stopped",
	"prestart":                       "wants prestart hooks called by start; the specification has them called by create",
	"process_capabilities_fail":      "wants unknown capabilities refused; since version 1.1 the specification wants a warning",
	"process_rlimits":                "looks at limits from a Go program, and Go raises the soft limit of descriptors when it starts",
	"start":                          "wants a container without a program to start without an error, and says the opposite",
}

// racing is programs whose outcome depends on how fast the container's program ends.
var racing = map[string]string{
	"pidfile": "kills what has ended by itself, and wants no error",
}

// know adds what depends on the machine.
func know() {
	for controller, why := range map[string]string{"hugetlb": noHugetlb, "net_cls": noNetwork} {
		_, err := os.Stat("/sys/fs/cgroup/" + controller)
		if err != nil || controller == "net_cls" && os.Getenv(linkVariable) == "" {
			for _, kind := range []string{"", "relative_"} {
				failing["linux_cgroups_"+kind+map[string]string{"hugetlb": "hugetlb", "net_cls": "network"}[controller]] = why
			}
		}
	}
	var header unix.CapUserHeader
	var sets [2]unix.CapUserData
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if unix.Capget(&header, &sets[0]) == nil && sets[0].Permitted&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		failing["process_capabilities"] = noResource
	}
}

// tool is a line of the module file that names a program.
var tool = regexp.MustCompile(`(?m)^\s+github.com/opencontainers/runtime-tools/validation/(\w+)$`)

// programs are the names of the programs, from the module file.
func programs(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../.ci/validation.mod")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range tool.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	if len(names) != 58 {
		t.Fatalf("%d programs, not 58: %q", len(names), names)
	}
	return names
}

// TestValidation runs every program. Those in the table have to fail: who finds one passing takes it out.
func TestValidation(t *testing.T) {
	cell.Need(t)
	runtime := cmp.Or(os.Getenv("RUNTIME"), "/usr/local/bin/zap")
	dir, err := filepath.Abs(programsDir)
	if err != nil {
		t.Fatal(err)
	}
	know()
	if link := os.Getenv(linkVariable); link != "" {
		if out, err := exec.Command("ip", "link", "add", link, "type", "bridge").CombinedOutput(); err != nil {
			t.Fatalf("add link %s: %v: %s", link, err, out)
		}
	}
	passed := 0
	for _, name := range programs(t) {
		t.Run(name, func(t *testing.T) {
			why := runProgram(dir, name, runtime)
			reason, known := failing[name]
			race, races := racing[name]
			switch {
			case races:
				t.Logf("may pass or fail: %s\n%s", race, why)
			case why == "" && known:
				t.Errorf("passes, although it was known to fail: %s", reason)
			case why == "":
				passed++
			case known:
				t.Logf("fails, as it has to: %s\n%s", reason, why)
			default:
				t.Error(why)
			}
		})
	}
	t.Logf("%d programs of 58 pass", passed)
	for name, why := range failing {
		t.Logf("%s: %s", name, why)
	}
}

// runProgram returns why a program does not pass, or "". Its own bundles and whatever else it leaves lie on the cell's tmpfs.
func runProgram(dir, name, runtime string) string {
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Dir = dir // runtimetest and the archive of the root file system are there
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "TMPDIR=/var/tmp")
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	said := stdout.String() + stderr.String()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "does not end\n" + said
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return err.Error()
	case exit != nil:
		return exit.String() + "\n" + said
	}
	for line := range strings.Lines(stdout.String()) {
		if strings.HasPrefix(line, "not ok") || strings.HasPrefix(strings.TrimSpace(line), `"error":`) && !strings.Contains(said, "\nok ") {
			return said
		}
	}
	return ""
}
