package e2e

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	mostLines   = 600 // of a file
	mostInAFunc = 90  // lines of a function
)

// ranks is the order of the packages: one may import those of a lower rank only. A new package gets a place here.
var ranks = map[string]int{
	"runtime/boot/nofile": 0, "runtime/signals": 0, "runtime/vdso": 0, "runtime/seccomp": 0, "criu/criutest": 0, "pod/fulldisk": 0,
	"spec": 1, "network/stream": 1, "runtime/boot": 1,
	"criu": 2, "network": 2, "runtime/cgroup": 2, "pod/pages": 2,
	"runtime":       3,
	"pod":           4,
	"pod/preflight": 5,
	"pod/migrate":   6, "pod/barrier": 6,
	"pod/peer": 7,
	"cmd/zap":  8,
	"e2e":      9, "e2e/cell": 9,
	"e2e/stage": 10,
	"e2e/bench": 11, "e2e/demo": 11, "e2e/engines": 11, "e2e/validation": 11,
	"e2e/vm/remote": 9, "e2e/vm": 10, "e2e/vm/agent": 10,
}

// callsKernel is the packages that may import golang.org/x/sys/unix.
var callsKernel = []string{
	"runtime", "runtime/boot", "runtime/boot/nofile", "runtime/signals", "runtime/cgroup", "runtime/seccomp", "network", "network/stream", "criu",
	"pod", "pod/fulldisk", "pod/pages", "pod/preflight", "pod/migrate", "cmd/zap", "e2e", "e2e/cell",
	"e2e/vm", "e2e/vm/agent",
}

// source is one Go file of the repository.
type source struct {
	path string // below the repository's root
	pkg  string // the directory, below the root
	test bool
	text []byte
	file *ast.File
	set  *token.FileSet
}

// at is where something stands.
func (s *source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.set.Position(p).Line)
}

// repository walks the repository's files, without what git, builds and tests leave in it.
func repository(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("..", p)
		if d.IsDir() && slices.Contains([]string{".git", "bin", "build", "dist"}, rel) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && rel != ".git" { // a file in a worktree
			visit(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses the repository's Go files.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	repository(t, func(p string) {
		if path.Ext(p) != ".go" {
			return
		}
		s := &source{path: p, pkg: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), set: token.NewFileSet()}
		var err error
		if s.text, err = os.ReadFile(filepath.Join("..", p)); err != nil {
			t.Fatal(err)
		}
		if s.file, err = parser.ParseFile(s.set, p, s.text, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	})
	if len(all) < 20 {
		t.Fatalf("found %d Go files: this is not the repository", len(all))
	}
	return all
}

func (s *source) inTestdata() bool { return strings.Contains("/"+s.path, "/testdata/") }

// TestImports wants imports to run one way, and system calls to be made where they belong.
func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.inTestdata() {
			continue
		}
		rank, known := ranks[s.pkg]
		if !known {
			t.Errorf("%s: package %s has no place in the order of packages", s.path, s.pkg)
			continue
		}
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			switch {
			case name == "C":
				t.Errorf("%s: cgo", s.at(spec.Pos()))
			case name == "golang.org/x/sys/unix" && !s.test && !slices.Contains(callsKernel, s.pkg):
				t.Errorf("%s: package %s makes no system calls of its own", s.at(spec.Pos()), s.pkg)
			}
			if other, ok := strings.CutPrefix(name, modulePath+"/"); ok && !s.test && ranks[other] >= rank {
				t.Errorf("%s: %s imports %s, which is not below it", s.at(spec.Pos()), s.pkg, other)
			}
		}
	}
}

// TestPackageDocs wants a doc.go in every package that begins with what the package is.
func TestPackageDocs(t *testing.T) {
	docs := map[string]string{}
	for _, s := range sources(t) {
		if s.inTestdata() {
			continue
		}
		if _, ok := docs[s.pkg]; !ok {
			docs[s.pkg] = ""
		}
		if path.Base(s.path) == "doc.go" {
			docs[s.pkg] = s.file.Doc.Text()
		}
	}
	for pkg, doc := range docs {
		first, _, _ := strings.Cut(strings.ReplaceAll(doc, "\n", " "), ". ")
		want := "Package " + path.Base(pkg) + " "
		if strings.HasPrefix(pkg, "cmd/") {
			want = "Command " + path.Base(pkg) + " "
		}
		if !strings.HasPrefix(first, want) || len(strings.Fields(first)) < 5 {
			t.Errorf("%s/doc.go: the package comment begins with %q, not with %q and what it is", pkg, first, want)
		}
	}
}

// TestSizes keeps files and functions readable.
func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > mostLines {
			t.Errorf("%s has %d lines, more than %d", s.path, n, mostLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1; n > mostInAFunc {
				t.Errorf("%s: %s has %d lines, more than %d", s.at(f.Pos()), f.Name.Name, n, mostInAFunc)
			}
		}
	}
}

// errorWords are what error texts do without: they say which verb met which object, and why it didn't work.
var errorWords = regexp.MustCompile(`(?i)\b(failed to|unable to|could not|couldn't)\b|^error\b`)

// TestErrorTexts looks at the texts that errors are made of.
func TestErrorTexts(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.inTestdata() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || (f.Sel.Name != "Errorf" && f.Sel.Name != "New") {
				return true
			}
			text, ok := call.Args[0].(*ast.BasicLit)
			if !ok || text.Kind != token.STRING {
				return true
			}
			said, _ := strconv.Unquote(text.Value)
			if word := errorWords.FindString(said); word != "" {
				t.Errorf("%s: an error says %q", s.at(text.Pos()), word)
			}
			if first := strings.TrimLeft(said, "%"); first != "" && strings.HasSuffix(said, ".") && !strings.HasSuffix(said, "...") {
				t.Errorf("%s: an error ends with a full stop", s.at(text.Pos()))
			}
			return true
		})
	}
}

// TestExportedDocs wants a comment on everything that another package can use.
func TestExportedDocs(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.inTestdata() || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.at(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, name := range bareNames(d) {
					t.Errorf("%s: %s has no comment", s.at(name.Pos()), name.Name)
				}
			}
		}
	}
}

// methodsOfStd are methods whose meaning an interface of the standard library says.
var methodsOfStd = []string{"Error", "Unwrap", "String", "Read", "Write", "Close", "Len", "Less", "Swap", "Is", "MarshalJSON", "UnmarshalJSON"}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	if slices.Contains(methodsOfStd, f.Name.Name) {
		return false
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

// bareNames is the exported names of a declaration without a comment, on themselves, behind them or on their group.
func bareNames(d *ast.GenDecl) []*ast.Ident {
	var bare []*ast.Ident
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
				bare = append(bare, spec.Name)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if name.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
					bare = append(bare, name)
				}
			}
		}
	}
	return bare
}

// TestNames refuses packages that are named for nothing.
func TestNames(t *testing.T) {
	empty := []string{"util", "utils", "common", "manager", "helper", "helpers", "internal", "pkg", "misc", "shared", "base", "lib"}
	for _, s := range sources(t) {
		for part := range strings.SplitSeq(s.pkg, "/") {
			if slices.Contains(empty, part) {
				t.Errorf("%s: %q says nothing about what the package provides", s.path, part)
			}
		}
		if name := strings.TrimSuffix(strings.TrimSuffix(path.Base(s.path), ".go"), "_test"); slices.Contains(empty, name) {
			t.Errorf("%s: the file's name says nothing", s.path)
		}
	}
}

// TestNothingForeign keeps paths of one workplace and hosts of registries out: the machine's own configuration knows them.
// The names are put together here so that this file does not have them.
func TestNothingForeign(t *testing.T) {
	foreign := []string{
		"../" + "shared", "/work" + "/", "deb.debian" + ".org", "snapshot.debian" + ".org", "proxy.golang" + ".org", "sum.golang" + ".org",
		"registry.npmjs" + ".org", "pypi" + ".org", "docker" + ".io", "ghcr" + ".io", "quay" + ".io", "gcr" + ".io", "crates" + ".io",
	}
	repository(t, func(p string) {
		data, err := os.ReadFile(filepath.Join("..", p))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range foreign {
			for from := 0; ; {
				i := bytes.Index(data[from:], []byte(f))
				if i < 0 {
					break
				}
				if i += from; !insidePath(data, i) {
					t.Errorf("%s:%d mentions %s", p, bytes.Count(data[:i], []byte("\n"))+1, f)
				}
				from = i + len(f)
			}
		}
	})
}

// insidePath says whether what stands at i is a part of a longer path, as in upper/work/.
func insidePath(data []byte, i int) bool {
	if i == 0 || data[i] != '/' {
		return false
	}
	c := data[i-1]
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-)}>%", rune(c))
}

// TestLicence wants the licence that every part of the repository is under.
func TestLicence(t *testing.T) {
	data, err := os.ReadFile("../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("LICENSE has no %q", want)
		}
	}
}
