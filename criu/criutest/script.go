package criutest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scriptVariable tells a re-run test binary that it is a stand-in, and where
// its script is.
const scriptVariable = "ZAP_CRIUTEST_SCRIPT"

// Version is what a stand-in says it is, in criu.Binary's form.
const Version = 40201

// Script is what a stand-in does once it has got a dump or restore request.
// Requests for its version and features it answers by itself.
type Script struct {
	Steps []Step
}

// Step is one thing to do; the first field that is set counts.
type Step struct {
	Notify   string        // call back by this name and wait for the answer
	Pid      int           // with Notify: the process id that goes with it
	PassFile string        // with Notify: a file to open and pass along
	Log      string        // append this line to the request's log
	Output   string        // write this line to standard error
	Reply    *Reply        // answer the request
	Raw      []byte        // send these bytes
	Spin     time.Duration // use the processor for this long
	Hang     bool          // do nothing until killed, whatever happens to the socket
	Exit     int           // exit with this status
}

// Reply is the final answer.
type Reply struct {
	Success bool
	Pid     int    // of a restore
	Errno   int    // CRIU's cr_errno
	Message string // CRIU's cr_errmsg
}

// Answer is what a stand-in got as answer to a callback.
type Answer struct {
	Notify   string
	Yes      bool
	External []string // what came with it
}

// Stand is a stand-in that was written to disk, ready to be started.
type Stand struct {
	Path string // of the executable
	dir  string
}

// New makes a stand-in that follows s.
func New(t testing.TB, s Script) *Stand {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "script.json")
	wrapper := fmt.Sprintf("#!/bin/sh\n%s='%s' exec '%s' \"$@\"\n", scriptVariable, script, self)
	stand := &Stand{Path: filepath.Join(dir, "criu"), dir: dir}
	for name, content := range map[string]string{script: string(data), stand.Path: wrapper} {
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return stand
}

// Answers returns the answers that the stand-in got so far.
func (s *Stand) Answers(t testing.TB) []Answer {
	t.Helper()
	data, err := os.ReadFile(answersOf(filepath.Join(s.dir, "script.json")))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []Answer
	for line := range strings.Lines(string(data)) {
		var a Answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	return list
}

func answersOf(script string) string { return script + ".answers" }
