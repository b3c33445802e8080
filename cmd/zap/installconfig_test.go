package main

import (
	"os"
	"strings"
	"testing"
)

func TestEngineConfig(t *testing.T) {
	for engine, file := range engineFile {
		shipped, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := engineConfig(engine, installedPath); got != string(shipped) || err != nil {
			t.Errorf("%s: what is printed by the installed zap is not %s (%v)", engine, file, err)
		}
		got, err := engineConfig(engine, "/opt/z/zap")
		if err != nil || !strings.Contains(got, `"/opt/z/zap"`) || strings.Contains(got, installedPath) {
			t.Errorf("%s: the path of zap is not in\n%s(%v)", engine, got, err)
		}
		if got, err := engineConfig(engine, `/opt/"quoted"/zap`); err == nil {
			t.Errorf("%s: a path with quotes became\n%s", engine, got)
		}
	}
	if _, err := engineConfig("lxc", installedPath); err == nil || !strings.Contains(err.Error(), "--print") {
		t.Errorf("an engine nobody knows: %v", err)
	}
}
