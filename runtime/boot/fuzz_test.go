package boot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzCompile compiles any specification, also such as no validation lets through: it ends in an error or in a program that only leads
// forward and can be shown and started.
func FuzzCompile(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.json")
	if err != nil || len(inputs) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, input := range inputs {
		data, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		var c struct{ Spec json.RawMessage }
		if err := json.Unmarshal(data, &c); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(c.Spec), false)
		f.Add([]byte(c.Spec), true)
	}
	f.Add([]byte(`{"process":{"args":[""],"cwd":"","terminal":true,"capabilities":{},"user":{"additionalGids":[0]}},"mounts":[{}],"linux":{"namespaces":[{"type":"mount"}],"devices":[{}],"maskedPaths":[""],"readonlyPaths":["/"],"rootfsPropagation":"r"}}`), true)
	f.Add([]byte(`{"process":{"args":["x"]},"mounts":[{"destination":"/proc","options":["rbind","ridmap","remount","tmpcopyup","r"]},{"type":"tmpfs","destination":"/x","options":["ro"]}],"linux":{"namespaces":[{"type":"mount"}]}}`), false)
	f.Fuzz(func(t *testing.T, data []byte, detached bool) {
		s := new(specs.Spec)
		if json.Unmarshal(data, s) != nil {
			return
		}
		facts := Facts{Root: "/rootfs", Bundle: "/bundle", Tasks: []string{"/cgroup/tasks"}, Hooks: detached, Cgroups: []Cgroup{{Name: "cpu", Dir: "/c", Links: []string{"l"}}}}
		if detached {
			facts.Gate = GateSocket
		}
		if p, err := Compile(s, facts); err == nil {
			checkProgram(t, p)
		}
		if s.Process == nil {
			return
		}
		if p, err := CompileExec(s.Process, ExecFacts{Document: "process"}); err == nil {
			checkProgram(t, p)
		}
	})
}

// checkProgram shows and binds a program.
func checkProgram(t *testing.T, p *Program) {
	t.Helper()
	_ = p.String()
	for i, op := range p.Ops {
		for _, to := range []int{op.Then, op.Else} {
			if to != 0 && (to <= i || to >= len(p.Ops)) {
				t.Errorf("operation %d leads to %d of %d", i, to, len(p.Ops))
			}
		}
	}
	r := &resolver{p: p, slots: make([]int, len(p.slots)), report: 3, stub: 4, out: &bound{}}
	r.resolve()
	for i, s := range r.out.steps {
		for _, to := range []int32{s.then, s.other} {
			if to <= int32(i) || to > int32(len(r.out.steps)) {
				t.Errorf("step %d leads to %d of %d", i, to, len(r.out.steps))
			}
		}
	}
}
