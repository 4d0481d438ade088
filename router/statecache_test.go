package router

import "testing"

// TestS3SeenOfAnotherLife: of two lives the one remembered may be the older one, so
// memory does not answer then; the store does, whatever the life.
func TestS3SeenOfAnotherLife(t *testing.T) {
	entry := StateEntry{Key: "k", Version: 3, Life: "a"}
	for name, tt := range map[string]struct {
		seen             *Expect
		memory, tooOldIn bool // may memory answer; is the store's answer too old
	}{
		"nothing seen":            {nil, true, false},
		"never there":             {&Expect{}, true, false},
		"the same version":        {&Expect{3, "a"}, true, false},
		"an older one":            {&Expect{2, "a"}, true, false},
		"a newer one":             {&Expect{4, "a"}, false, true},
		"a newer one of any life": {&Expect{4, ""}, false, true},
		"an older one of another": {&Expect{1, "b"}, false, false},
		"a newer one of another":  {&Expect{9, "b"}, false, false},
	} {
		if atLeast(&entry, tt.seen) != tt.memory || below(&entry, tt.seen) != tt.tooOldIn {
			t.Errorf("%s: memory may answer %t, the store is behind %t", name, atLeast(&entry, tt.seen), below(&entry, tt.seen))
		}
	}
}
