// This file lets the compiler accept functions without a body: the bodies are in the runtime, see fork.go.
