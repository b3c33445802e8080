package spec

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestLarge checks what the code supposes of the structs that it takes apart.
func TestLarge(t *testing.T) {
	for _, l := range large {
		for i := range l.NumField() {
			f := l.Field(i)
			_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			name, _ := tagOf(f)
			if f.Anonymous || !f.IsExported() || name == "" || name == "-" || options != "" && options != "omitempty" {
				t.Errorf("%s.%s is tagged %q", l, f.Name, f.Tag)
			}
		}
	}
}

// documents are specifications that encoding/json reads in its own ways.
var documents = []string{
	`{"ociVersion":"1.0.2","process":null,"root":{"path":"r"},"linux":{"resources":{"devices":[{"allow":true,"major":1}],"unified":{"a":"<b>"}}}}`,
	`{"OCIVersion":"1.0.2","Linux":{"cgroupspath":"/x"}}`,
	`{"linux":{"Resources":{"pids":{"limit":5}}},"windows":{"layerFolders":["a"]},"vm":{"kernel":{"path":"k"}},"other":[1,{"a":2}]}`,
	`{"linux":{"resources":null,"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW"}]}}}`,
	`{"process":{"user":{"uid":1,"umask":18},"args":[],"env":null,"cwd":"/\u2028<","oomScoreAdj":0,"capabilities":{}},"hooks":{},"annotations":{}}`,
	`null`, `{}`, `{"linux":{}}`,
	`{"linux":{"resources":{"pids":{"limit":"x"}}}}`, `{"linux":[]}`, `[]`, `{"linux":{`, ``,
}

// compareJSON decodes a document both ways, compares the results, and so with encoding what came of it.
func compareJSON(t *testing.T, document []byte) {
	t.Helper()
	got, want := new(specs.Spec), new(specs.Spec)
	err, wantErr := unmarshalSpec(document, got), json.Unmarshal(document, want)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("%s: error %v, want %v", document, err, wantErr)
	}
	if err != nil {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\ngot  %+v\nwant %+v", document, got, want)
	}
	type plain Bundle // has no methods
	b := &Bundle{Dir: "/a<b", Spec: got, Overlay: &Overlay{Lower: []string{"l"}, Upper: "u"}}
	data, err := json.Marshal(b)
	wantData, wantErr := json.Marshal((*plain)(b))
	if err != nil || wantErr != nil || string(data) != string(wantData) {
		t.Fatalf("got  %s, %v\nwant %s, %v", data, err, wantData, wantErr)
	}
	back, wantBack := new(Bundle), new(plain)
	if err := json.Unmarshal(data, back); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, wantBack); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, (*Bundle)(wantBack)) {
		t.Fatalf("got  %+v\nwant %+v", back, wantBack)
	}
}

// TestJSON compares with encoding/json.
func TestJSON(t *testing.T) {
	whole, err := json.MarshalIndent(Default(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range append(documents, string(whole)) {
		compareJSON(t, []byte(document))
	}
}

// FuzzJSON compares with encoding/json, except where a name is there twice.
func FuzzJSON(f *testing.F) {
	for _, document := range documents {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if !repeats(document) {
			compareJSON(t, document)
		}
	})
}

// repeats says whether some word in quotation marks is there twice, in whatever case.
func repeats(document []byte) bool {
	seen := map[string]bool{}
	for _, word := range regexp.MustCompile(`"[^"]*"`).FindAllString(strings.ToUpper(string(document)), -1) {
		if seen[word] {
			return true
		}
		seen[word] = true
	}
	return strings.Contains(string(document), `\`)
}

// TestVersion compares with the pattern that isVersion stands for.
func TestVersion(t *testing.T) {
	pattern := regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+([-+.][0-9A-Za-z.+-]+)?$`)
	for _, v := range []string{
		"", "1", "1.", "1.2", "1.2.", "1.2.3", "11.22.33", "1.2.3-", "1.2.3-dev", "1.2.3+a.b-c", "1.2.3.4", "1.2.3 ", "1.2.3-ä", "a.2.3", "1.a.3",
		"1.2.a", "1..3", ".1.2.3", "1.2.3dev", "1.2.3-_", "1.2.3\n",
	} {
		if got, want := isVersion(v), pattern.MatchString(v); got != want {
			t.Errorf("isVersion(%q) = %v, want %v", v, got, want)
		}
	}
}
