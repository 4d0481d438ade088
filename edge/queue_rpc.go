package edge

// queueBuiltins are the rpc methods of durable queues.
func (s *Server) queueBuiltins() map[string]builtin {
	return map[string]builtin{}
}
