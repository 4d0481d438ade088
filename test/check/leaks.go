package check

import "encoding/json"

// Resources is what a process holds. In Rules it is how much it may grow by.
type Resources struct {
	Phase       string `json:"phase,omitempty"` // "before" or "after" the load
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	Bytes       int64  `json:"bytes"` // resident
}

// leaks compares what each process held after everything with what it held when
// it was fresh.
func (v *verifier) leaks(events []Event) {
	before := make(map[string]Resources)
	for i := range events {
		e := &events[i]
		if e.Kind != Usage {
			continue
		}
		var now Resources
		if err := json.Unmarshal([]byte(e.Payload), &now); err != nil {
			v.violated(Violation{Rule: RuleLeak, T: e.T, Who: e.Who}, "%s: unreadable usage %q", e.Who, e.Payload)
			continue
		}
		if now.Phase == "before" {
			before[e.Who] = now
			continue
		}
		was, ok := before[e.Who]
		may := v.rules.Leak
		if ok && (now.Goroutines > was.Goroutines+may.Goroutines || now.Descriptors > was.Descriptors+may.Descriptors || now.Bytes > was.Bytes+may.Bytes) {
			v.violated(Violation{Rule: RuleLeak, T: e.T, Who: e.Who},
				"%s: %d goroutines, %d descriptors, %d MB after everything; %d, %d, %d MB when it was fresh", e.Who,
				now.Goroutines, now.Descriptors, now.Bytes>>20, was.Goroutines, was.Descriptors, was.Bytes>>20)
		}
	}
}
