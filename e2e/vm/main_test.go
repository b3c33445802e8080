package vm

import (
	"fmt"
	"os"
	"testing"

	"github.com/zap-migrate/zap/e2e"
)

func TestMain(m *testing.M) {
	if err := e2e.Adopt(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := e2e.RemoveScratch(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
