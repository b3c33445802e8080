// Package criutest is a stand-in for `criu swrk` that follows a script, for
// tests of what can't be asked of a real CRIU: that it hangs, dies, or answers
// nonsense.
//
// The test binary is run again as the stand-in, so a package that uses it has
//
//	func TestMain(m *testing.M) { criutest.Main(m) }
package criutest
