package jet

import "github.com/prometheus/client_golang/prometheus"

// Counters is a counter for each value of a closed set.
type Counters[L ~string] map[L]prometheus.Counter

func (c Counters[L]) Add(l L) { c[l].Inc() }

func NewCounters[L ~string](r prometheus.Registerer, name, help, label string, values ...L) Counters[L] {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	if r != nil {
		r.MustRegister(vec)
	}
	c := make(Counters[L], len(values))
	for _, v := range values {
		c[v] = vec.WithLabelValues(string(v))
	}
	return c
}
