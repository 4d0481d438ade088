//go:build planted

package planted

import "os"

var active = Name(os.Getenv(Variable))

// Bug reports whether the bug is planted: the one that the environment names.
func Bug(n Name) bool { return n == active }
