package queue

import "testing"

// TestSchedule: picks follow the weights of those that have something.
func TestSchedule(t *testing.T) {
	for name, tt := range map[string]struct {
		weights [6]int
		picks   int
		want    [6]int
	}{
		"all":           {[6]int{6, 6, 3, 3, 1, 1}, 20, [6]int{6, 6, 3, 3, 1, 1}},
		"jobs only":     {[6]int{6, 0, 3, 0, 1, 0}, 10, [6]int{6, 0, 3, 0, 1, 0}},
		"low only":      {[6]int{0, 0, 0, 0, 1, 0}, 5, [6]int{0, 0, 0, 0, 5, 0}},
		"high and low":  {[6]int{6, 0, 0, 0, 1, 0}, 7, [6]int{6, 0, 0, 0, 1, 0}},
		"nothing":       {[6]int{}, 3, [6]int{}},
		"one at a time": {[6]int{6, 0, 3, 0, 1, 0}, 1, [6]int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			var s schedule
			var got [6]int
			for range tt.picks {
				if i := s.next(func(i int) int { return tt.weights[i] }); i >= 0 {
					got[i]++
				}
			}
			if got != tt.want {
				t.Errorf("picks %v, want %v", got, tt.want)
			}
		})
	}
}
