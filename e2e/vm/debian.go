package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

const (
	aptTimeout = 10 * time.Minute // bounds one call of apt
	listsAge   = 24 * time.Hour   // how old apt's lists may be
)

// archive is one view of Debian's archive: some suites, the first preferred, with lists of its own and no package installed.
type archive struct {
	suites []string
	dir    string
}

// debFile is a package that apt would fetch.
type debFile struct {
	name, version string // version with its epoch
	hash          string // of the file, where apt says it
}

// openArchive makes the archive's view below the cache and has apt look what is there, once a day.
func (c *cache) openArchive(ctx context.Context, suites ...string) (*archive, error) {
	a := &archive{suites: suites, dir: filepath.Join(c.dir, "apt", strings.Join(suites, "+"))}
	if time.Since(a.updated()) < listsAge {
		return a, nil
	}
	mirror, err := mirrorAddress(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(a.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb %s %s main\n", mirror, s)
	}
	for name, text := range map[string]string{"sources.list": sources.String(), "status": ""} {
		if err := os.WriteFile(a.path(name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := a.apt(ctx, "", "apt-get", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return nil, fmt.Errorf("look at the archive's suites %v: %w", suites, err)
	}
	return a, os.WriteFile(a.path("updated"), nil, 0o644)
}

// updated is when the lists were fetched.
func (a *archive) updated() time.Time {
	info, err := os.Stat(a.path("updated"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (a *archive) path(name string) string { return filepath.Join(a.dir, name) }

// apt runs a program of apt's on the archive's view: the machine's own keys, but none of its sources, preferences and packages.
func (a *archive) apt(ctx context.Context, dir string, args ...string) (string, error) {
	options := []string{
		"-q", "-o", "Dir::Etc::sourcelist=" + a.path("sources.list"), "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "Dir::State::lists=" + a.path("lists"), "-o", "Dir::State::status=" + a.path("status"),
		"-o", "Dir::State::extended_states=" + a.path("extended"), "-o", "Dir::Cache=" + a.path("cache"),
		"-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root",
		// Suites that change rarely expire on some mirrors; their signatures are checked all the same.
		"-o", "Acquire::Check-Valid-Until=false",
	}
	return command(ctx, dir, slices.Concat(args[:1], options, args[1:])...)
}

// resolve is what apt would fetch for the packages on a machine that has none, in alphabetical order.
func (a *archive) resolve(ctx context.Context, packages ...string) ([]debFile, error) {
	// The answer is as good as the lists are.
	answer := a.path("resolved-" + key(strings.Join(packages, " "), nil))
	out, err := os.ReadFile(answer)
	if info, statErr := os.Stat(answer); err != nil || statErr != nil || info.ModTime().Before(a.updated()) {
		args := append([]string{"apt-get", "install", "-y", "--no-install-recommends", "--print-uris", "-t", a.suites[0]}, packages...)
		text, err := a.apt(ctx, "", args...)
		if err != nil {
			return nil, fmt.Errorf("resolve packages %v of %v: %w", packages, a.suites, err)
		}
		out = []byte(text)
		if err := os.WriteFile(answer, out, 0o644); err != nil {
			return nil, err
		}
	}
	var files []debFile
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // 'URI' NAME_VERSION_ARCH.deb SIZE HASH, of suites with packages of others no hash
		if len(f) < 3 || !strings.HasPrefix(f[0], "'") {
			continue
		}
		parts := strings.Split(f[1], "_")
		version, err := url.PathUnescape(parts[min(1, len(parts)-1)])
		if err != nil || len(parts) != 3 {
			return nil, fmt.Errorf("resolve packages: a file is named %q", f[1])
		}
		file := debFile{name: parts[0], version: version}
		if len(f) > 3 {
			file.hash = f[3]
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(x, y debFile) int { return strings.Compare(x.name, y.name) })
	return files, nil
}

// unpack downloads the packages, apt checking what they are, and unpacks them over each other in dir. No script of theirs is run.
func (a *archive) unpack(ctx context.Context, files []debFile, dir string) error {
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	args := []string{"apt-get", "download"}
	for _, f := range files {
		args = append(args, f.name+"="+f.version)
	}
	if _, err := a.apt(ctx, debs, args...); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	found, err := filepath.Glob(debs + "/*.deb")
	if err != nil || len(found) != len(files) {
		return errors.Join(fmt.Errorf("download packages: %d files came, not %d", len(found), len(files)), err)
	}
	for i, f := range found { // has the links from /bin to /usr/bin
		if strings.HasPrefix(filepath.Base(f), "base-files_") {
			found[0], found[i] = found[i], found[0]
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range found {
		if _, err := command(ctx, "", "dpkg-deb", "-x", f, dir); err != nil {
			return err
		}
	}
	return nil
}

// key is a short name for a list of packages and what is made of them.
func key(recipe string, files []debFile) string {
	sum := sha256.New()
	fmt.Fprintln(sum, recipe)
	for _, f := range files {
		fmt.Fprintln(sum, f.name, f.version, f.hash)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12]
}

// mirrorAddress is where this machine's own apt takes Debian's main component from, whatever the format of its sources.
func mirrorAddress(ctx context.Context) (string, error) {
	out, err := command(ctx, "", "apt-get", "indextargets", "--format", "$(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Debian" && f[1] == "main" {
			return f[2], nil
		}
	}
	return "", errors.New("find a Debian mirror: this machine's apt has none (apt-get update may help)")
}

// command runs a program to its end and answers with its standard output.
func command(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, aptTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &stdout, &stderr, 5*time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if err := e2e.RunChild(cmd); err != nil {
		return "", fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
