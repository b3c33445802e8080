package boot

import "testing"

func TestCPUMask(t *testing.T) {
	for list, want := range map[string]string{
		"0": "0x1", "0-1": "0x3", "1,3": "0xa", "64": "0x10000000000000000", "0,127": "0x80000000000000000000000000000001",
	} {
		if got, err := CPUMask(list); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", list, got, err, want)
		}
	}
	if got, err := CPUMask("x"); err == nil {
		t.Errorf("x: %s", got)
	}
}
