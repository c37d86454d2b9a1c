"""headrace.serve"""
