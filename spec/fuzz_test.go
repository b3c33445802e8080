package spec

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hostile are documents that somebody might write to see what happens, with a part of the answer.
var hostile = []struct{ document, want string }{
	{``, "config.json: empty"},
	{`[]`, "config.json: line 1: array where an object belongs"},
	{`null`, "config.json: ociVersion: missing"},
	{`{`, "config.json: line 1: unexpected end of JSON input"},
	{"{\n\n\"process\": {\"args\": [1]}}", "config.json: process.args: line 3: number where a string belongs"},
	{`{"process":{"user":{"uid":-1}}}`, "config.json: process.user.uid: line 1: number -1 where a uint32 belongs"},
	{`{"process":{"user":{"uid":4294967296}}}`, "process.user.uid"},
	{`{"process":{"rlimits":[{"type":"RLIMIT_CORE","soft":-1,"hard":0}]}}`, "process.rlimits"},
	{`{"mounts":{}}`, "config.json: mounts: line 1: object where a"},
	{`{"mounts":[{"destination":[]}]}`, "config.json: mounts.destination: line 1: array where a string belongs"},
	{`{"linux":{"namespaces":"all"}}`, "linux.namespaces: line 1: string where a"},
	{`{"linux":{"resources":{"memory":{"limit":1e400}}}}`, "linux.resources.memory.limit"},
	{`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{"uidMappings":[{"containerID":0,"hostID":4294967295,"size":4294967295}]}}`, "linux.uidMappings[0]: goes beyond the last id"},
	{`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"mounts":[{"destination":"/x","type":"tmpfs","options":["a\u0000b"]}]}`, "mounts[0].options[0]: contains a zero byte"},
	{`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"` + strings.Repeat("r", 5000) + `"}}`, "config.json: root.path: longer than 4095 bytes"},
	{`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{"devices":[{"path":"/d","type":"c","major":-1,"minor":99999999}]}}`, "linux.devices[0].major: -1 is not between 0 and 4095"},
	{`{"linux":` + strings.Repeat(`{"linux":`, 20000) + `0` + strings.Repeat(`}`, 20000) + `}`, "config.json: "},
	{`{"mounts":[` + strings.Repeat(`{},`, 100000) + `{}]}`, "mounts: 100001 entries, more than 4096"},
}

// TestHostileDocuments wants the place in the file named.
func TestHostileDocuments(t *testing.T) {
	for _, tt := range hostile {
		_, err := Parse([]byte(tt.document))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.80s: got %v, want %s", tt.document, err, tt.want)
		}
	}
}

// FuzzParse reads anything. What it takes it writes, and reads again as the same.
func FuzzParse(f *testing.F) {
	for _, tt := range hostile {
		if len(tt.document) < 1000 {
			f.Add([]byte(tt.document))
		}
	}
	for _, change := range []func(*specs.Spec){
		func(*specs.Spec) {},
		func(s *specs.Spec) { ToRootless(s) },
		func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}}}}
		},
	} {
		s := Default()
		change(s)
		data, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			if !strings.Contains(err.Error(), ConfigName) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("taken once, but not again: %v\n%s", err, again)
		}
	})
}
