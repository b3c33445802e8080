package engines

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// followReadme runs the commands of the README that name a directory.
func followReadme(directory string) error {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		return err
	}
	var commands []string
	inBlock := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = !inBlock
		case inBlock && strings.Contains(line, directory) && !strings.HasPrefix(line, "#"):
			commands = append(commands, line)
		}
	}
	if len(commands) == 0 {
		return fmt.Errorf("README.md says nothing about %s", directory)
	}
	if r := run("sh", "-ec", strings.Join(commands, "")); r.Code != 0 || r.Err != nil {
		return errorOf(r)
	}
	return nil
}

// TestPodmanDefault makes zap podman's default, as its file says.
func TestPodmanDefault(t *testing.T) {
	e := newPodman(t)
	const file = "/etc/containers/containers.conf.d/50-zap.conf"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "# runtime = ", "runtime = ", 1)
	if changed == string(text) {
		t.Fatalf("there is no line to change in\n%s", text)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(file, text, 0o644)
	if name := must(t, "podman", "info", "--format", "{{.Host.OCIRuntime.Path}}"); name != "/usr/local/bin/zap" {
		t.Errorf("podman's default is %s", name)
	}
	must(t, "podman", "run", "-d", "--name", "default", image, "sleep", "7777")
	e.want("zap", "inspect", "--format", "{{.OCIRuntime}}", "default")
}
