package stream

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkTree sends ten thousand small files, and one large one, over loopback without TLS.
func BenchmarkTree(b *testing.B) {
	for name, make := range map[string]func(root string) error{
		"small": func(root string) error {
			for i := range 10_000 {
				dir := filepath.Join(root, fmt.Sprint(i/100))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendf(nil, "%4000d", i), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		"large": func(root string) error {
			content := make([]byte, 256<<20)
			for i := range content {
				content[i] = byte(i * i >> 7)
			}
			return os.WriteFile(filepath.Join(root, "f"), content, 0o644)
		},
	} {
		b.Run(name, func(b *testing.B) {
			src := b.TempDir()
			check(b, make(src))
			index := scan(b, src)
			b.SetBytes(index.Bytes())
			for b.Loop() {
				transfer(b, src, b.TempDir(), index.All())
			}
		})
	}
}
