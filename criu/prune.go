package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// StaleCache lists the files in a cache directory ([Env].Cache) that this boot has no use for: what CRIU found out about the kernel of an
// earlier one, and that it worked there. Nobody reads them any more, so they can be removed at any time.
func StaleCache(dir string) ([]string, error) {
	boot, err := bootPrefix()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cache directory: %w", err)
	}
	var stale []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), kdatName+"-") && !strings.HasPrefix(e.Name(), boot) {
			stale = append(stale, filepath.Join(dir, e.Name()))
		}
	}
	return stale, nil
}
