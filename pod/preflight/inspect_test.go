package preflight

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zap-migrate/zap/runtime"
)

func (p *testPod) plan() *runtime.MountPlan {
	plan := &runtime.MountPlan{Binds: []runtime.BindMount{{Key: "volume", Target: "/volume", Source: p.dir + "/volume"}}}
	if p.queues {
		plan.Queues = []runtime.QueueMount{{Key: "queues", Target: "/dev/mqueue"}}
	}
	return plan
}

var varying = regexp.MustCompile(`\[\d+\]|inode \d+|process \d+ \([^)]*\) of the host|/dev/pts/\d+|process ([2-9]|\d{2,}) \(init\)`)

// number is for processes that are not the pod's own.
var number = regexp.MustCompile(`process \d+`)

// lines inspects a pod and makes the blockers comparable.
func (p *testPod) lines() []string {
	p.t.Helper()
	found, err := Inspect(p.pid, p.cg, p.stdio, p.plan())
	check(p.t, err)
	var out []string
	for _, b := range found {
		if b.Hint == "" || strings.Contains(b.String(), "%!") {
			p.t.Errorf("incomplete: %+v", b)
		}
		line := strings.ReplaceAll(b.Code+" "+b.Subject+": "+b.Detail, p.dir+"/volume", "VOLUME")
		out = append(out, varying.ReplaceAllStringFunc(line, func(s string) string {
			switch {
			case s[0] == '[':
				return "[N]"
			case s[0] == 'i':
				return "inode N"
			case s[0] == '/':
				return "/dev/pts/N"
			case strings.HasSuffix(s, "(init)"):
				return "process N (init)"
			}
			return "process N of the host"
		}))
	}
	return out
}

// TestInspectBlocked makes each kind of pod that can't move, compares what Inspect says with what CRIU does, and finds
// nothing but that.
func TestInspectBlocked(t *testing.T) {
	for _, c := range slices.Concat(blockedObjects, blockedFiles, blockedSockets, blockedProcesses) {
		t.Run(strings.ReplaceAll(c.name(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			var files []*os.File
			if c.files != nil {
				files = c.files(t)
			}
			p := startPod(t, c.kind, func(dir string) {
				if c.prepare != nil {
					c.prepare(t, dir)
				}
			}, files...)
			if c.after != nil {
				c.after(p)
			}
			if diff := cmp.Diff(c.want, p.lines()); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
			if err := p.dump(); (err == nil) != c.takes {
				t.Errorf("CRIU says: %v", err)
			}
		})
	}
}
